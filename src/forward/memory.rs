//! How much memory the buffers of a pass take.

use super::{Scratch, heads};
use crate::config::Config;
use crate::error::{ErrorKind, Result};

impl Scratch {
    /// Reserves the scores of this many positions, so that a longer text allocates none.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub(crate) fn reserve_scores(&mut self, config: &Config, positions: usize) -> Result<()> {
        let len = heads(config, 0).score_rows().saturating_mul(positions);
        let scores = &mut self.attention_buffer.scores;
        let more = len.saturating_sub(scores.len());
        let bytes = (len as u64).saturating_mul(size_of::<f32>() as u64);
        let out_of_memory = |_| ErrorKind::OutOfMemory { what: "the attention scores", bytes }.into();
        scores.try_reserve_exact(more).map_err(out_of_memory)
    }

    /// Bytes of scores that a position takes.
    pub(crate) fn bytes_per_position(config: &Config) -> usize {
        heads(config, 0).score_rows() * size_of::<f32>()
    }

    /// Bytes of f32 that a token takes.
    pub(crate) fn bytes_per_token(config: &Config) -> usize {
        let floats =
            2 * (config.dim + config.q_dim() + config.kv_dim() + config.hidden_dim) + config.rope_dim;
        floats * size_of::<f32>()
    }
}
