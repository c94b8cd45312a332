"""A vision-language model describes items; text encoders encode the descriptions."""
