"""Turn a vision-language model into a multimodal sequential recommender.

The public names are those of `__init__.pyi`, in one list; each is imported when it is first used, so that
`import vlm2rec_hf` costs next to nothing.
"""

import lazy_loader

from .auto import register_auto_classes_lazily
from .version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_auto_classes_lazily()
