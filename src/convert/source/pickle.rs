//! The pickles of PyTorch's checkpoints: as much of the language as describes a dictionary of
//! tensors.
//!
//! A pickle is a program for a stack machine that may call anything that Python can import. This
//! machine knows the few names in [`Global`] and builds values of its own for them. Any other name,
//! and any result of calling it, is an opaque value, which is refused only where weights should be.
//! Nothing is executed, and nothing is recursive.
//!
//! Trainers keep more than weights in a file: what isn't a tensor is passed over and named, a
//! dictionary of weights inside another is found, and llama2.c's hyperparameters are read.
//!
//! Invariant: every instruction makes at most one [`Node`], and values refer to each other by
//! number, so the memory taken is proportional to the pickle's length, for any pickle.
//!
//! Source: `Lib/pickletools.py` in the Python repository; `torch/_utils.py` for what the names
//! mean.

mod globals;
mod operands;
mod result;

use std::collections::HashMap;

use globals::Global;
use serde_json::{Map, Value};

use crate::bytes::ByteReader;
use crate::error::{Error, Result};

const FORMAT: &str = "PyTorch pickle";
/// Dimensions that a tensor may have; PyTorch's own limit is 64, a Llama's tensors have 2.
const MAX_DIMS: usize = 8;

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickled {
    /// In the pickle's order.
    pub(super) tensors: Vec<(String, PickledTensor)>,
    /// llama2.c's hyperparameters.
    pub(super) arguments: Option<Map<String, Value>>,
    /// Keys of what isn't looked at, the first few of them.
    pub(super) passed_over: Vec<String>,
}

/// A tensor as a pickle describes it: a view of a storage.
#[derive(Debug)]
pub(super) struct PickledTensor {
    /// The storage's name in the archive.
    pub(super) key: String,
    /// The storage's type, such as `HalfStorage`.
    pub(super) storage: String,
    /// Numbers in the storage.
    pub(super) numel: u64,
    /// The number of the storage that is the tensor's first.
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    /// How many numbers further the next one of each dimension is.
    pub(super) strides: Vec<usize>,
}

/// A value's number.
type Id = u32;

#[derive(Clone, Copy, Debug)]
enum Node<'a> {
    /// What nothing that is looked at depends on.
    Opaque,
    /// What a name that isn't known would have given: its number in [`Machine::names`].
    Object(u32),
    None,
    Bool(bool),
    Float(f64),
    Int(i64),
    Text(&'a [u8]),
    /// Values of [`Machine::items`].
    Tuple(u32, u32),
    List,
    /// Its number in [`Machine::dicts`].
    Dict(u32),
    Global(Global),
    /// Its number in [`Machine::storages`].
    Storage(u32),
    /// Its number in [`Machine::tensors`].
    Tensor(u32),
    /// A tensor that isn't a view of a storage: how it is made.
    OtherTensor(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Storage {
    kind: &'static str,
    key: Id,
    numel: u64,
}

#[derive(Debug)]
struct Tensor {
    storage: Storage,
    offset: u64,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// What of its description can't be honored: it is refused if a model needs it.
    metadata: Option<Id>,
}

/// Reads the tensors of a dictionary, in its order, and what else it says.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) for anything that no checkpoint of a model
/// has;
/// [`ErrorKind::TensorLayout`](crate::ErrorKind::TensorLayout) for a tensor that is there and can't
/// be read.
pub(super) fn read(pickle: &[u8]) -> Result<Pickled> {
    let mut machine = Machine { rest: ByteReader::new(pickle), ..Machine::default() };
    while machine.step()? {}
    let top = machine.pop()?;
    machine.result(top)
}

#[derive(Debug, Default)]
struct Machine<'a> {
    /// Instructions that aren't carried out yet.
    rest: ByteReader<'a>,
    nodes: Vec<Node<'a>>,
    items: Vec<Id>,
    dicts: Vec<Vec<(Id, Id)>>,
    storages: Vec<Storage>,
    tensors: Vec<Tensor>,
    /// Modules and names that aren't known.
    names: Vec<[&'a [u8]; 2]>,
    stack: Vec<Id>,
    /// Where in the stack marks are.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Carries out an instruction. `false` if it was the last.
    fn step(&mut self) -> Result<bool> {
        let code = self.take(1)?[0];
        if let Some(node) = self.literal(code)? {
            self.push(node)?;
            return Ok(true);
        }
        match code {
            // PROTO, FRAME: how the pickle was written.
            0x80 => {
                let version = self.take(1)?[0];
                if version > 5 {
                    return Err(Error::malformed(FORMAT, format!("it has the unknown protocol {version}")));
                }
            }
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'.' => return Ok(false),
            b'}' => self.new_dict()?,
            // A frozen set.
            0x91 => {
                self.drop_to_mark()?;
                self.push(Node::Opaque)?;
            }
            b'0' => drop(self.pop()?),
            b'1' => self.drop_to_mark()?,
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b't' => {
                let len = self.len_from_mark()?;
                self.tuple(len)?;
            }
            b'a' | b'e' | 0x90 => self.append(code)?,
            b's' | b'u' => self.set_items(code)?,
            b'c' | 0x93 => self.global(code)?,
            b'R' | 0x81 => self.reduce()?,
            0x92 => {
                // A class, arguments and named ones: no class that is known is made so.
                self.pop()?;
                self.pop()?;
                let class = self.pop_node()?;
                self.push(opaque(class))?;
            }
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            b'q' | b'r' | 0x94 => self.memoize(code)?,
            b'h' | b'j' => self.recall(code)?,
            _ => {
                let reason = format!("it has the instruction {code:#04x}, which no checkpoint needs");
                return Err(Error::malformed(FORMAT, reason));
            }
        }
        Ok(true)
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        // There are fewer instructions than that, since the pickle is short.
        let id = Id::try_from(self.nodes.len()).map_err(|_| Error::malformed(FORMAT, "it is too long"))?;
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    /// The uppermost value. What lies below a mark isn't there.
    fn pop(&mut self) -> Result<Id> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= bottom {
            return Err(Error::malformed(FORMAT, "it takes what isn't there"));
        }
        self.stack.pop().ok_or_else(|| Error::malformed(FORMAT, "it takes what isn't there"))
    }

    fn pop_node(&mut self) -> Result<Node<'a>> {
        self.pop().map(|id| self.nodes[id as usize])
    }

    /// How many values lie above the last mark, which is removed.
    fn len_from_mark(&mut self) -> Result<usize> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| Error::malformed(FORMAT, "it goes back to a mark that isn't there"))?;
        // No instruction takes anything from below a mark.
        Ok(self.stack.len() - mark)
    }

    fn new_dict(&mut self) -> Result<()> {
        self.dicts.push(Vec::new());
        self.push(Node::Dict(self.dicts.len() as u32 - 1))
    }

    /// Makes a tuple of the uppermost values.
    fn tuple(&mut self, len: usize) -> Result<()> {
        let start = self.items.len();
        let bottom = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(len).filter(|&from| from >= bottom);
        let from = from.ok_or_else(|| Error::malformed(FORMAT, "it takes what isn't there"))?;
        self.items.extend(self.stack.drain(from..));
        self.push(Node::Tuple(start as u32, self.items.len() as u32))
    }

    fn drop_to_mark(&mut self) -> Result<()> {
        let len = self.len_from_mark()?;
        self.stack.truncate(self.stack.len() - len);
        Ok(())
    }

    /// A list's items are no tensors' descriptions: they are dropped.
    fn append(&mut self, code: u8) -> Result<()> {
        if code == b'a' {
            self.pop()?;
        } else {
            self.drop_to_mark()?;
        }
        let list = self.pop()?;
        if !matches!(self.nodes[list as usize], Node::List | Node::Opaque | Node::Object(_)) {
            return Err(Error::malformed(FORMAT, "it appends to what is no list"));
        }
        self.stack.push(list);
        Ok(())
    }

    fn set_items(&mut self, code: u8) -> Result<()> {
        let len = if code == b's' { 2 } else { self.len_from_mark()? };
        let bottom = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(len);
        let from = from.filter(|&from| from >= bottom && len.is_multiple_of(2));
        let from = from.ok_or_else(|| Error::malformed(FORMAT, "it sets keys without values"))?;
        let items: Vec<Id> = self.stack.drain(from..).collect();
        let top = self.pop()?;
        let dict = match self.nodes[top as usize] {
            Node::Dict(dict) => dict,
            Node::Opaque | Node::Object(_) => {
                self.stack.push(top);
                return Ok(());
            }
            _ => return Err(Error::malformed(FORMAT, "it sets keys of what is no dictionary")),
        };
        self.stack.push(top);
        self.dicts[dict as usize].extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn global(&mut self, code: u8) -> Result<()> {
        let (module, name) = if code == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (Node::Text(name), Node::Text(module)) = (self.pop_node()?, self.pop_node()?) else {
                return Err(Error::malformed(FORMAT, "it asks for what has no name"));
            };
            (module, name)
        };
        let global = Global::named(module, name).unwrap_or_else(|| {
            self.names.push([module, name]);
            Global::Unknown(self.names.len() as u32 - 1)
        });
        self.push(Node::Global(global))
    }

    /// Calls a global with a tuple.
    fn reduce(&mut self) -> Result<()> {
        let arguments = self.pop_node()?;
        let called = self.pop_node()?;
        if matches!(called, Node::Opaque | Node::Object(_) | Node::Global(Global::Unknown(_))) {
            return self.push(opaque(called));
        }
        let (Node::Global(global), Node::Tuple(start, end)) = (called, arguments) else {
            return Err(Error::malformed(FORMAT, "it calls what can't be called"));
        };
        if matches!(global, Global::OrderedDict) && start == end {
            return self.new_dict();
        }
        let node = self.call(global, start as usize, end as usize)?;
        self.push(node)
    }

    /// What a call gives; its arguments are some of `items`.
    fn call(&mut self, global: Global, start: usize, end: usize) -> Result<Node<'a>> {
        let arguments = &self.items[start..end];
        match (global, arguments) {
            (Global::RebuildTensor, &[storage, offset, shape, strides, _, _, ref rest @ ..])
                if rest.len() <= 1 =>
            {
                self.view([storage, offset, shape, strides], rest.first().copied())
            }
            (Global::RebuildTensorV3, &[storage, offset, shape, strides, _, _, number, ref rest @ ..])
                if rest.len() <= 1 =>
            {
                let node = self.view([storage, offset, shape, strides], rest.first().copied())?;
                // Its storage is bytes of no type; this is what they are.
                if let (Node::Global(Global::NumberType(kind)), Some(tensor)) =
                    (self.nodes[number as usize], self.tensors.last_mut())
                {
                    tensor.storage.kind = kind;
                }
                Ok(node)
            }
            (Global::RebuildParameter, &[tensor, ..]) if arguments.len() <= 4 => {
                match self.nodes[tensor as usize] {
                    node @ (Node::Tensor(_) | Node::OtherTensor(_) | Node::Object(_)) => Ok(node),
                    _ => Err(Error::malformed(FORMAT, "a parameter is no tensor")),
                }
            }
            (Global::RebuildFromType, &[how, class, inner, _]) => {
                let nodes = [how, class, inner].map(|id| self.nodes[id as usize]);
                let [Node::Global(how), class, Node::Tuple(start, end)] = nodes else {
                    return Err(Error::malformed(FORMAT, "a tensor's class isn't described as PyTorch does"));
                };
                match (how, class) {
                    (Global::RebuildTensor | Global::RebuildTensorV3, Node::Global(Global::TensorClass)) => {
                        self.call(how, start as usize, end as usize)
                    }
                    _ => Ok(Node::OtherTensor("of a class of its own")),
                }
            }
            (Global::OtherTensor(how), _) => Ok(Node::OtherTensor(how)),
            (Global::Opaque | Global::OrderedDict | Global::NumberType(_) | Global::Storage(_), _) => {
                Ok(Node::Opaque)
            }
            _ => Err(Error::malformed(
                FORMAT,
                format!("it calls {global:?} with {} arguments", arguments.len()),
            )),
        }
    }

    /// A view of a storage, with its metadata.
    fn view(&mut self, of: [Id; 4], metadata: Option<Id>) -> Result<Node<'a>> {
        let [storage, offset, shape, strides] = of;
        let mut tensor = self.rebuild(storage, offset, shape, strides)?;
        tensor.metadata = metadata;
        self.tensors.push(tensor);
        Ok(Node::Tensor(self.tensors.len() as u32 - 1))
    }

    fn rebuild(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Tensor> {
        let wrong = || Error::malformed(FORMAT, "a tensor isn't described as PyTorch does");
        let (Node::Storage(storage), Node::Int(offset)) =
            (self.nodes[storage as usize], self.nodes[offset as usize])
        else {
            return Err(wrong());
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(wrong());
        }
        let offset = u64::try_from(offset).map_err(|_| wrong())?;
        let storage = self.storages[storage as usize];
        Ok(Tensor { storage, offset, shape, strides, metadata: None })
    }

    /// A tuple of numbers that aren't negative.
    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let Node::Tuple(start, end) = self.nodes[id as usize] else {
            return Err(Error::malformed(FORMAT, "a tensor's shape is no tuple"));
        };
        let items = &self.items[start as usize..end as usize];
        if items.len() > MAX_DIMS {
            return Err(Error::malformed(FORMAT, format!("a tensor has {} dimensions", items.len())));
        }
        let size = |&id: &Id| match self.nodes[id as usize] {
            Node::Int(size) => usize::try_from(size).ok(),
            _ => None,
        };
        let sizes: Option<_> = items.iter().map(size).collect();
        sizes.ok_or_else(|| Error::malformed(FORMAT, "a tensor's shape or strides aren't numbers from 0 up"))
    }

    /// Attributes of a dictionary, which only PyTorch needs, are dropped, and those of what isn't
    /// looked at.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        let object = self.pop()?;
        if !matches!(self.nodes[object as usize], Node::Dict(_) | Node::Opaque | Node::Object(_)) {
            return Err(Error::malformed(FORMAT, "it sets attributes of what is no dictionary"));
        }
        self.stack.push(object);
        Ok(())
    }

    /// A storage: `("storage", type, key, device, numel)`.
    fn persistent(&mut self) -> Result<()> {
        let wrong = || Error::malformed(FORMAT, "it names something else than a storage");
        let Node::Tuple(start, end) = self.pop_node()? else { return Err(wrong()) };
        let &[tag, kind, key, _, numel, ..] = &self.items[start as usize..end as usize] else {
            return Err(wrong());
        };
        let nodes = [tag, kind, key, numel].map(|id| self.nodes[id as usize]);
        let [Node::Text(b"storage"), Node::Global(Global::Storage(kind)), Node::Text(_), Node::Int(numel)] =
            nodes
        else {
            return Err(wrong());
        };
        let numel = u64::try_from(numel).map_err(|_| wrong())?;
        self.storages.push(Storage { kind, key, numel });
        self.push(Node::Storage(self.storages.len() as u32 - 1))
    }

    fn memoize(&mut self, code: u8) -> Result<()> {
        let name = match code {
            b'q' => self.number(1)? as u32,
            b'r' => self.number(4)? as u32,
            _ => self.memo.len() as u32,
        };
        let top = self.pop()?;
        self.stack.push(top);
        self.memo.insert(name, top);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<()> {
        let name = self.number(if code == b'h' { 1 } else { 4 })? as u32;
        let id = self.memo.get(&name).copied();
        self.stack.push(
            id.ok_or_else(|| Error::malformed(FORMAT, format!("it recalls {name}, which it never kept")))?,
        );
        Ok(())
    }
}

/// What a call of a value gives that may be anything.
fn opaque(called: Node<'_>) -> Node<'_> {
    match called {
        Node::Global(Global::Unknown(name)) | Node::Object(name) => Node::Object(name),
        _ => Node::Opaque,
    }
}
