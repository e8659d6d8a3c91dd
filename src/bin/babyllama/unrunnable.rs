//! What `inspect` shows of a GGUF file that can't be run: its contents, and the reason.

use std::fmt::Write;

use babyllama::inspect::{GgufFile, GgufTensor};
use serde_json::{Value, json};

use crate::commands::InspectArgs;
use crate::inspect::{describe_metadata, describe_table, digits, size};

/// A file that can't be run, and the reason.
#[derive(Debug)]
pub(crate) struct Unrunnable {
    file: GgufFile,
    reason: String,
}

impl Unrunnable {
    /// `None` if the file isn't GGUF, or if its keys can't be read.
    pub(crate) fn open(args: &InspectArgs, reason: &str) -> Option<Self> {
        let file = GgufFile::open(&args.model).ok()?;
        Some(Self { file, reason: reason.into() })
    }

    fn parameters(&self) -> u128 {
        let of_tensor =
            |tensor: &GgufTensor| tensor.shape.iter().fold(1_u128, |n, &dim| n.saturating_mul(dim.into()));
        self.file.tensors.iter().map(of_tensor).fold(0, u128::saturating_add)
    }

    /// The value of a key, if the file has it.
    fn value(&self, key: &str) -> Option<&str> {
        self.file.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn describe(&self, args: &InspectArgs) -> String {
        let none = || "none".to_string();
        let of_key = |key: &str| self.value(key).map_or_else(none, str::to_owned);
        let mut text = String::new();
        for (name, value) in [
            ("model", args.model.display().to_string()),
            ("format", self.file.format.into()),
            ("architecture", self.file.architecture.clone().unwrap_or_else(none)),
            ("size", size(self.file.file_bytes)),
            ("parameters", digits(self.parameters())),
            ("tokenizer", of_key("tokenizer.ggml.model")),
            ("pieces", of_key("tokenizer.ggml.tokens")),
            ("keys", self.file.metadata.len().to_string()),
        ] {
            // Writing to a String doesn't fail.
            let _ = writeln!(text, "{name:<13} {value}");
        }
        let tensors = self.file.tensors.iter().map(|tensor| {
            let shape = tensor.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
            (tensor.name.clone(), shape, tensor.dtype.clone(), tensor.bytes.unwrap_or(0))
        });
        describe_table(&mut text, tensors, args.tensors);
        if args.metadata {
            describe_metadata(&mut text, &self.file.metadata);
        }
        let _ = writeln!(text, "\nIt can't be run: {}", self.reason);
        text
    }

    pub(crate) fn to_json(&self, args: &InspectArgs) -> Value {
        let mut all = json!({
            "model": args.model.display().to_string(),
            "format": self.file.format,
            "architecture": self.file.architecture,
            "bytes": self.file.file_bytes,
            "parameters": u64::try_from(self.parameters()).unwrap_or(u64::MAX),
            "cannot_run": self.reason,
        });
        if args.tensors {
            let tensor = |tensor: &GgufTensor| {
                let GgufTensor { name, shape, dtype, bytes, .. } = tensor;
                json!({ "name": name, "shape": shape, "dtype": dtype, "bytes": bytes })
            };
            all["tensors"] = self.file.tensors.iter().map(tensor).collect();
        }
        if args.metadata {
            let pairs = self.file.metadata.iter();
            all["metadata"] = pairs.map(|(key, value)| (key.clone(), json!(value))).collect();
        }
        all
    }
}
