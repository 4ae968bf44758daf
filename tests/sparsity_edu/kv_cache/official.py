"""The authors' code, line by line, without what concerns devices and models."""

import torch


class H2OKVCacheLayerWise:
    """FMInference/H2O, h2o_hf/utils_real_drop/modify_llama.py: one sequence, no shared heads."""

    def __init__(self, hh_size=4, recent_size=512):
        self.hh_size, self.recent_size, self.cache_size = hh_size, recent_size, hh_size + recent_size
        self.hh_score = None

    def __call__(self, past_key_values, attn_score_cache):
        self._update_hh_score(attn_score_cache)
        seq_len = past_key_values[0].size(2)
        if seq_len <= self.cache_size:
            return past_key_values
        bsz, num_heads, _, head_dim = past_key_values[0].shape
        select_hh_scores = self.hh_score[:, : seq_len - self.recent_size]
        _, keep_topk = torch.topk(select_hh_scores, self.hh_size, dim=-1)
        keep_topk = keep_topk.sort().values
        keep_recent = torch.arange(seq_len - self.recent_size, seq_len).repeat(keep_topk.shape[0], 1)
        keep_idx = torch.cat([keep_topk, keep_recent], dim=-1)
        mask = torch.zeros(self.hh_score.shape, dtype=torch.bool)
        mask = mask.scatter(-1, keep_idx, 1)
        self.keep = keep_idx
        k_hh_recent = past_key_values[0].squeeze(0)[mask].view(bsz, num_heads, -1, head_dim)
        v_hh_recent = past_key_values[1].squeeze(0)[mask].view(bsz, num_heads, -1, head_dim)
        self.hh_score = self.hh_score[mask].view(num_heads, self.cache_size)
        return (k_hh_recent, v_hh_recent)

    def _update_hh_score(self, attn_score_cache):
        num_new_tokens = attn_score_cache.shape[2]
        if self.hh_score is None:
            self.hh_score = attn_score_cache.sum(0).sum(1)
        else:
            attn_score_cache = attn_score_cache.sum(0).sum(1)
            attn_score_cache[:, :-num_new_tokens] += self.hh_score
            self.hh_score = attn_score_cache


def local_heavy_hitter_mask(attn_weights, token_budget, chunk_size):
    """mit-han-lab/Quest, evaluation/quest_attention.py."""
    seq_length = attn_weights.shape[-1]
    padding_length = chunk_size - ((seq_length - 1) % chunk_size + 1)
    lowest = torch.ones((*attn_weights.shape[:3], padding_length)) * torch.finfo(attn_weights.dtype).min
    attn_weights = torch.cat([attn_weights, lowest], dim=-1)
    chunks = attn_weights.reshape(*attn_weights.shape[:3], attn_weights.shape[3] // chunk_size, chunk_size).amax(dim=-1)
    _, topk = chunks.topk(k=min(max(3, token_budget // chunk_size), chunks.size(-1)), dim=-1)
    topk = topk.unsqueeze(-1).repeat(1, 1, 1, 1, chunk_size) * chunk_size + torch.arange(chunk_size)
    topk = topk.reshape(*topk.shape[:3], -1)
    mask_bottom = torch.zeros_like(attn_weights, dtype=torch.bool)
    mask_bottom.scatter_(-1, topk, True)
    return mask_bottom[..., :seq_length]


def quest_step(query_states, key_states, value_states, token_budget, chunk_size):
    """The same file, `forward` for one query after `repeat_kv`; also which tokens are read."""
    kv_seq_len, head_dim = key_states.shape[2:]
    attn_weights = torch.matmul(query_states, key_states.transpose(2, 3)) / head_dim**0.5
    sign = (query_states > 0) + (~(query_states > 0)) * -1
    max_key = key_states * sign
    postive_query = query_states * sign
    padding_length = chunk_size - ((kv_seq_len - 1) % chunk_size + 1)
    lowest = torch.ones((*max_key.shape[:2], padding_length, head_dim)) * torch.finfo(max_key.dtype).min
    max_key = torch.cat([max_key, lowest], dim=-2)
    chunk_max_key = max_key.reshape(*max_key.shape[:2], max_key.shape[2] // chunk_size, chunk_size, head_dim).amax(dim=-2)
    chunk_max_key = chunk_max_key.unsqueeze(-2).repeat(1, 1, 1, chunk_size, 1)
    chunk_max_key = chunk_max_key.reshape(*chunk_max_key.shape[:2], -1, head_dim)[:, :, :kv_seq_len]
    quantized_weight = torch.matmul(postive_query.float(), chunk_max_key.transpose(2, 3))
    mask_bottom = local_heavy_hitter_mask(quantized_weight, min(kv_seq_len, token_budget), chunk_size)
    mask_bottom = torch.tril(mask_bottom, diagonal=kv_seq_len - 1)
    attn_weights[~mask_bottom] = torch.finfo(attn_weights.dtype).min
    return torch.softmax(attn_weights, dim=-1) @ value_states, mask_bottom[:, :, 0]
