//! What GGUF calls the tensors of a Llama.

/// Meta's names of a layer's tensors, and GGUF's.
const LAYER: [(&str, &str); 9] = [
    ("attention_norm", "attn_norm"),
    ("attention.wq", "attn_q"),
    ("attention.wk", "attn_k"),
    ("attention.wv", "attn_v"),
    ("attention.wo", "attn_output"),
    ("ffn_norm", "ffn_norm"),
    ("feed_forward.w1", "ffn_gate"),
    ("feed_forward.w2", "ffn_down"),
    ("feed_forward.w3", "ffn_up"),
];

/// Meta's names of the other tensors, and GGUF's.
const MODEL: [(&str, &str); 3] =
    [("tok_embeddings", "token_embd"), ("norm", "output_norm"), ("output", "output")];

/// What Llama 3.1's rotary frequencies are divided by. Meta has no name for it.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// GGUF's name of the tensor that Meta calls, for example, `layers.3.attention.wq`. `None` if a
/// Llama has no such tensor.
pub(crate) fn of(tensor: &str) -> Option<String> {
    let find =
        |names: &[(&str, &'static str)], name| names.iter().find(|(meta, _)| *meta == name).map(|n| n.1);
    match tensor.strip_prefix("layers.") {
        Some(rest) => {
            let (layer, name) = rest.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            Some(format!("blk.{layer}.{}.weight", find(&LAYER, name)?))
        }
        None => Some(format!("{}.weight", find(&MODEL, tensor)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_llamas_tensors_have_names() {
        assert_eq!(of("layers.31.feed_forward.w2").as_deref(), Some("blk.31.ffn_down.weight"));
        assert_eq!(of("norm").as_deref(), Some("output_norm.weight"));
        for unknown in
            ["", "layers.1", "layers.x.ffn_norm", "layers.1.attention", "attention_norm", "layers.1.norm"]
        {
            assert_eq!(of(unknown), None, "{unknown:?}");
        }
    }
}
