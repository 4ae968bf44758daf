"""Caches of keys and values that forget, or look only where it matters, or store less; in a model's own `generate`.

    from sparsity_edu import kv_cache

    model.set_attn_implementation(kv_cache.ATTENTION)
    model.generate(**prompt, past_key_values=kv_cache.H2OCache(512))

    statistics   how sparse attention is
    full         everything, for comparison
    window       the most recent tokens, and sinks (StreamingLLM)
    h2o          the tokens that attention has looked at most
    quest        everything held, few pages read
    mla          a latent instead of keys and values; low_rank makes one of an existing model's
    sizes        bytes per token of MHA, GQA, MQA and MLA
    needle       how often a cache finds a line of a long text
    reading      the loss of texts that are read through a cache; a class of one's own as the cache of a model

policy.py is the frame that they share, eviction.py that of those that forget; together.py runs several in one pass.
"""

from sparsity_edu.kv_cache.full import FullCache
from sparsity_edu.kv_cache.h2o import H2OCache
from sparsity_edu.kv_cache.policy import ATTENTION, PolicyCache, attending
from sparsity_edu.kv_cache.quest import QuestCache
from sparsity_edu.kv_cache.window import WindowCache

__all__ = ["ATTENTION", "FullCache", "H2OCache", "PolicyCache", "QuestCache", "WindowCache", "attending"]
