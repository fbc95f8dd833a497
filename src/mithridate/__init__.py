"""How much poison can your machine-learning pipeline take?"""

import lazy_loader

from mithridate._version import __version__ as __version__
from mithridate.versions import warn_if_untested as _warn_if_untested

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_warn_if_untested()
