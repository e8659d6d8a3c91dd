//! The names that a checkpoint's pickle may ask for. Nothing is imported: each becomes a value of
//! the machine's own.

/// The names that mean something, and what they become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    /// For numbers that have no storage of their own type.
    RebuildTensorV3,
    RebuildParameter,
    /// A tensor of a class, or with attributes.
    RebuildFromType,
    /// The class of an ordinary tensor.
    TensorClass,
    Storage(&'static str),
    /// A type of numbers, by its name.
    NumberType(&'static str),
    /// A tensor that isn't a view of a storage: how it is made.
    OtherTensor(&'static str),
    /// What is kept beside weights, and never looked at.
    Opaque,
    /// A name that isn't known: its number in the machine's list.
    Unknown(u32),
}

/// The types of storages. Only the first four hold weights.
const STORAGES: [&str; 17] = [
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
    "ComplexFloatStorage",
    "ComplexDoubleStorage",
    "ComplexHalfStorage",
    "QInt8Storage",
    "QUInt8Storage",
    "QInt32Storage",
    "UntypedStorage",
];

/// How tensors are made that have no rows of plain numbers.
const OTHER_TENSORS: [(&str, &str); 7] = [
    ("_rebuild_sparse_tensor", "sparse"),
    ("_rebuild_sparse_csr_tensor", "sparse"),
    ("_rebuild_nested_tensor", "nested"),
    ("_rebuild_qtensor", "quantized"),
    ("_rebuild_meta_tensor_no_storage", "without weights (of the meta device)"),
    ("_rebuild_wrapper_subclass", "of a class of its own"),
    ("_rebuild_device_tensor_from_numpy", "of another device"),
];

/// What training leaves beside the weights: values that describe nothing of them.
const OPAQUE: [(&str, &str); 22] = [
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("argparse", "Namespace"),
    ("collections", "defaultdict"),
    ("collections", "Counter"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("_codecs", "encode"),
    ("__builtin__", "set"),
    ("builtins", "set"),
    ("__builtin__", "complex"),
    ("builtins", "complex"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
];

/// The types of numbers that PyTorch names, each an attribute of the module; and how numbers are
/// quantized.
const NUMBER_TYPES: [&str; 27] = [
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "half",
    "float",
    "double",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
    "uint16",
    "uint32",
    "uint64",
    "complex64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "qint8",
    "quint8",
    "per_tensor_affine",
    "per_channel_affine",
];

impl Global {
    /// `None` of a name that isn't known.
    pub(super) fn named(module: &[u8], name: &[u8]) -> Option<Self> {
        match (module, name) {
            (b"collections", b"OrderedDict") => return Some(Self::OrderedDict),
            (b"torch._utils", b"_rebuild_tensor_v2") => return Some(Self::RebuildTensor),
            (b"torch._utils", b"_rebuild_tensor_v3") => return Some(Self::RebuildTensorV3),
            (b"torch._utils", b"_rebuild_parameter" | b"_rebuild_parameter_with_state") => {
                return Some(Self::RebuildParameter);
            }
            (b"torch._tensor", b"_rebuild_from_type_v2") => return Some(Self::RebuildFromType),
            (b"torch", b"Tensor") | (b"torch.nn.parameter", b"Parameter") => {
                return Some(Self::TensorClass);
            }
            _ => {}
        }
        let is = |text: &str, bytes: &[u8]| text.as_bytes() == bytes;
        if is("torch", module) || is("torch.storage", module) {
            if let Some(storage) = STORAGES.iter().find(|storage| is(storage, name)) {
                return Some(Self::Storage(storage));
            }
            let number = NUMBER_TYPES.iter().find(|number| is("torch", module) && is(number, name));
            if let Some(number) = number {
                return Some(Self::NumberType(number));
            }
        }
        if is("torch._utils", module)
            && let Some((_, how)) = OTHER_TENSORS.iter().find(|(other, _)| is(other, name))
        {
            return Some(Self::OtherTensor(how));
        }
        OPAQUE.iter().any(|(of, opaque)| is(of, module) && is(opaque, name)).then_some(Self::Opaque)
    }
}
