"""Files, losses and data for users of the sentence-transformers library.

The public names are those of `__init__.pyi`; each is imported when it is first used, the losses with the library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
