//! What a pickle's value says: tensors, and what lies beside them.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::globals::Global;
use super::{FORMAT, Id, Machine, Node, Pickled, PickledTensor, Tensor};
use crate::error::{Error, Result};

/// The keys under which trainers keep the weights, if they keep more than them.
const WEIGHTS: [&[u8]; 4] = [b"model", b"state_dict", b"model_state_dict", b"module"];
/// llama2.c's hyperparameters, beside its weights.
const ARGUMENTS: &[u8] = b"model_args";
/// Keys that are named of those that are passed over.
const NAMED: usize = 8;

/// The longest name of a tensor.
const MAX_NAME: usize = 1024;
/// The longest key of a storage: they are numbers.
const MAX_KEY: usize = 64;

/// The keys and values of a dictionary.
type Pairs = [(Id, Id)];

impl<'a> Machine<'a> {
    fn dict(&self, id: Id) -> Option<&Pairs> {
        if let Node::Dict(dict) = self.nodes[id as usize] { Some(&self.dicts[dict as usize]) } else { None }
    }

    /// The name that a value is called by, if the name isn't known.
    fn unknown_name(&self, id: Id) -> Option<String> {
        let (Node::Object(name) | Node::Global(Global::Unknown(name))) = self.nodes[id as usize] else {
            return None;
        };
        let name = self.names[name as usize].join(&b'.');
        Some(format!("{:?}", String::from_utf8_lossy(&name).chars().take(100).collect::<String>()))
    }

    fn is_tensor(&self, id: Id) -> bool {
        matches!(self.nodes[id as usize], Node::Tensor(_) | Node::OtherTensor(_))
    }

    fn string(&self, id: Id, most: usize) -> Option<&'a str> {
        match self.nodes[id as usize] {
            Node::Text(text) if text.len() <= most => str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The dictionary of weights, and the one that it is in.
    fn weights(&self, top: Id) -> Result<(&Pairs, &Pairs)> {
        let outer = self.dict(top).ok_or_else(|| match self.unknown_name(top) {
            Some(name) => Error::malformed(FORMAT, format!(
                "it is {name}, an object that only its own program can load, and nothing was executed: load it there, and \
                 save its state_dict()"
            )),
            None => Error::malformed(FORMAT, "it is no dictionary of tensors"),
        })?;
        let named = |key: Id| match self.nodes[key as usize] {
            Node::Text(text) => WEIGHTS.contains(&text),
            _ => false,
        };
        for &(key, value) in outer.iter().filter(|(key, _)| named(*key)) {
            if let Some(inner) = self.dict(value)
                && inner.iter().any(|&(_, value)| self.is_tensor(value))
            {
                debug_assert_ne!(key, value);
                return Ok((inner, outer));
            }
        }
        Ok((outer, &[]))
    }

    /// The tensors of a dictionary. Other values in it are no weights.
    pub(super) fn result(&self, top: Id) -> Result<Pickled> {
        let (dict, outer) = self.weights(top)?;
        let (mut tensors, mut names, mut passed_over) = (Vec::new(), HashSet::new(), Vec::new());
        let mut pass_over = |key: Id| {
            if passed_over.len() < NAMED {
                passed_over.push(self.string(key, MAX_NAME).unwrap_or("a key that is no short text").into());
            }
        };
        for &(key, value) in dict {
            let name = self.string(key, MAX_NAME);
            if let (Some(name), Some(class)) =
                (name.filter(|it| it.ends_with(".weight")), self.unknown_name(value))
            {
                let reason = format!(
                    "it is {class}, which babyllama doesn't know, and nothing was executed: save it as a plain tensor"
                );
                return Err(Error::tensor_layout(name, reason));
            }
            if !self.is_tensor(value) {
                pass_over(key);
                continue;
            }
            let name = name.ok_or_else(|| Error::malformed(FORMAT, "a tensor's name is no short text"))?;
            // Names are copied, so each must have cost its length.
            if !names.insert(name) {
                return Err(Error::malformed(FORMAT, format!("{name:?} is there twice")));
            }
            tensors.push((name.into(), self.described(name, value)?));
        }
        let mut arguments = None;
        for &(key, value) in outer {
            match (self.nodes[key as usize], self.dict(value)) {
                (Node::Text(ARGUMENTS), Some(found)) => arguments = Some(self.scalars(found)),
                (_, Some(found)) if std::ptr::eq(found, dict) => {}
                _ => pass_over(key),
            }
        }
        Ok(Pickled { tensors, arguments, passed_over })
    }

    fn described(&self, name: &str, value: Id) -> Result<PickledTensor> {
        let refuse = |reason: String| Error::tensor_layout(name, reason);
        let Node::Tensor(tensor) = self.nodes[value as usize] else {
            let how = if let Node::OtherTensor(how) = self.nodes[value as usize] { how } else { "strange" };
            return Err(refuse(format!(
                "it is {how}, and not rows of numbers: save it in PyTorch as a dense tensor of floats"
            )));
        };
        let Tensor { storage, offset, shape, strides, metadata } = &self.tensors[tensor as usize];
        self.check_metadata(*metadata).map_err(refuse)?;
        let key = self.string(storage.key, MAX_KEY);
        let key = key.ok_or_else(|| Error::malformed(FORMAT, "a storage's key is no short text"))?;
        Ok(PickledTensor {
            key: key.into(),
            storage: storage.kind.into(),
            numel: storage.numel,
            offset: *offset,
            shape: shape.clone(),
            strides: strides.clone(),
        })
    }

    /// Checks that a view gives the storage's numbers: its bits `neg` and `conj`, which aren't set,
    /// and nothing else.
    fn check_metadata(&self, metadata: Option<Id>) -> std::result::Result<(), String> {
        let Some(metadata) = metadata else { return Ok(()) };
        if matches!(self.nodes[metadata as usize], Node::None) {
            return Ok(());
        }
        let Some(bits) = self.dict(metadata) else {
            return Err("what is said of it beside its shape isn't known".into());
        };
        for &(key, value) in bits {
            if !matches!(self.nodes[value as usize], Node::Bool(false)) {
                let bit = self.string(key, MAX_KEY).unwrap_or("unknown");
                return Err(format!(
                    "its bit {bit:?} is set, so its weights aren't the numbers that are stored: save \
                     tensor.resolve_neg().resolve_conj()"
                ));
            }
        }
        Ok(())
    }

    /// The numbers and texts of a dictionary, as JSON has them.
    fn scalars(&self, dict: &Pairs) -> Map<String, Value> {
        let value = |id: Id| match self.nodes[id as usize] {
            Node::None => Value::Null,
            Node::Bool(bool) => bool.into(),
            Node::Int(int) => int.into(),
            Node::Float(float) => float.into(),
            _ => self.string(id, MAX_NAME).map_or_else(|| Value::Object(Map::new()), Value::from),
        };
        let pair = |&(key, id): &(Id, Id)| self.string(key, MAX_NAME).map(|key| (key.to_owned(), value(id)));
        dict.iter().filter_map(pair).collect()
    }
}
