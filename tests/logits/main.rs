//! Logits against those of others: Hugging Face's, the reference forward pass in f64, and runq's.

#[path = "../common/mod.rs"]
mod common;

mod formats;
mod golden;
mod oracle;
mod prefill;
mod quantized;
