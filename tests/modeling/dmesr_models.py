"""Small DMESR models over random inputs, for tests."""

import torch

from vlm2rec_hf import DMESRConfig, DMESRModel
from vlm2rec_hf.modeling.inputs_dmesr import ItemInputs

N, COARSE, FINE = 30, 7, 5


def random_inputs(n=N, length=6, seed=0):
    """Inputs in half precision; item 0 lacks the image's description, item 1 all of them, item 2 its text."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, COARSE, generator=generator).half()
    described = torch.ones(n, 3, dtype=torch.bool)
    described[0, 1], described[1] = False, False
    tokens = torch.arange(length) < torch.randint(1, length + 1, (n, 1), generator=generator)
    tokens[2] = False
    fine = torch.randn(n, length, FINE, generator=generator).half()
    return ItemInputs(coarse * described[..., None], described, fine * tokens[..., None], tokens)


def make(encoder="sasrec", inputs=None, **options):
    """A model in evaluation mode, with inputs and a catalogue `i0`, `i1`, ..."""
    torch.manual_seed(0)
    inputs = inputs or random_inputs()
    settings = {"hidden_size": 16, "max_length": 8, **options}
    model = DMESRModel(DMESRConfig(n_items=len(inputs), encoder=encoder, content_dims=inputs.dims, **settings)).eval()
    model.set_inputs(inputs, embedder="org/text-encoder", embedder_revision="a" * 40, fingerprint="f1")
    model.set_catalogue([f"i{n}" for n in range(len(inputs))], torch.arange(len(inputs)))
    return model
