"""The shop's page: what it shows as plain Python, how it looks, and the Gradio application around both."""
