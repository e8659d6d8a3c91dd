//! The same bits wherever the weights lie; and caches of half precision.

use std::sync::Arc;

use babyllama::{CacheDtype, Isa, Model, ModelBytes, ModelOptions, SessionOptions};

use crate::common::{BUNDLED, TempFile, assert_same_bits, open, open_on, step_by_step};
use crate::{SHAPE, large_files, run, small_files, tokens};

#[test]
fn bytes_of_every_kind_and_alignment_make_the_same_model() {
    for (name, file) in small_files() {
        let expected = run(&open(file.clone()));
        let check = |model: babyllama::Result<Model>, kind: &str| {
            let model = model.unwrap();
            assert_eq!(model.file_bytes(), file.len() as u64);
            assert_same_bits(&run(&model), &expected, &format!("{name} {kind}"));
        };
        check(Model::from_bytes(file.clone()), "Vec");
        check(Model::from_bytes(Arc::<[u8]>::from(&file[..])), "Arc");
        check(Model::from_bytes(file.clone().into_boxed_slice()), "Box");
        let mut map = memmap2::MmapMut::map_anon(file.len()).unwrap();
        map.copy_from_slice(&file);
        check(Model::from_bytes(ModelBytes::from_owner(map.make_read_only().unwrap())), "Mmap");
        let leaked: &'static mut [u8] = vec![0; file.len() + 64].leak();
        for offset in 0..=17 {
            let mut shifted = vec![0xFF; file.len() + 64];
            shifted[offset..][..file.len()].copy_from_slice(&file);
            let shifted: &'static [u8] = shifted.leak();
            check(Model::from_bytes(&shifted[offset..][..file.len()]), &format!("static at {offset}"));
        }
        leaked[..file.len()].copy_from_slice(&file);
        let leaked: &'static [u8] = leaked;
        check(Model::from_bytes(&leaked[..file.len()]), "static");
        let on_disk = TempFile::new("model.bin", &file);
        check(Model::open(&on_disk), "mapped");
    }
}

#[test]
fn the_owner_of_bytes_lives_as_long_as_the_last_clone_of_the_model() {
    struct Owner {
        bytes: Vec<u8>,
        _alive: Arc<()>,
    }
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    let (_, file) = small_files()[0].clone();
    let alive = Arc::new(());
    let owner = |bytes| ModelBytes::from_owner(Owner { bytes, _alive: Arc::clone(&alive) });
    let model = Model::from_bytes(owner(file)).unwrap();
    let session = model.session();
    drop(model);
    assert_eq!(Arc::strong_count(&alive), 2, "used in place");
    drop(session);
    assert_eq!(Arc::strong_count(&alive), 1);
    // What can't be a model is given back, too.
    assert!(Model::from_bytes(owner(vec![1; 99])).is_err());
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_model_that_is_included_is_used_in_place() {
    let bytes = babyllama::include_model!("../../models/babyllama.gguf");
    assert!(bytes.as_ptr().addr().is_multiple_of(64));
    assert_eq!(bytes, std::fs::read(BUNDLED).unwrap());
    let model = Model::from_bytes(bytes).unwrap();
    assert_eq!(model.file_bytes(), bytes.len() as u64);
    #[cfg(feature = "bundled")]
    assert_eq!(format!("{:?}", Model::bundled().unwrap()), format!("{model:?}"));
}

#[test]
fn a_model_outlives_its_file() {
    let (_, file) = small_files()[2].clone();
    let expected = run(&open(file.clone()));
    let on_disk = TempFile::new("model.bin", &file);
    let model = Model::open(&on_disk).unwrap();
    drop(on_disk); // unlinked, yet mapped
    assert_same_bits(&run(&model), &expected, "unlinked");
}

#[test]
fn a_cache_of_halves_changes_logits_by_no_more_than_its_rounding() {
    let options = SessionOptions::new().cache_dtype(CacheDtype::F16);
    for (name, file) in small_files() {
        for isa in Isa::available() {
            let model = open_on(file.clone(), isa, 1);
            let tokens = tokens(150, SHAPE.vocab_size);
            let exact = step_by_step(&model, &tokens);
            let mut session = model.session_with(options);
            let mut halves = Vec::new();
            for &token in &tokens {
                halves.extend_from_slice(session.forward(&[token]).unwrap());
            }
            // What is read of the first token is its own value alone, so its logits differ too.
            let first = SHAPE.vocab_size;
            assert_ne!(halves[..first], exact[..first], "{name} {}: halves are rounded", isa.name());
            let squares = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
            let difference: Vec<f32> = halves.iter().zip(&exact).map(|(a, b)| a - b).collect();
            // Each key and value is off by 2^-11 at most; int8 activations make of some of that
            // whole steps of 1 / 127.
            let share = (squares(&difference) / squares(&exact)).sqrt();
            let limit = if name == "v2" { 1.0 / 127.0 } else { 1.0 / 2048.0 };
            assert!(share < limit, "{name} {}: {share:e}", isa.name());

            let mut at_once = model.session_with(options);
            let prefilled = at_once.forward(&tokens).unwrap().to_vec();
            assert_same_bits(&prefilled, &halves[halves.len() - first..], name);
            let mut fork = at_once.fork().unwrap();
            assert_same_bits(fork.forward(&[5]).unwrap(), at_once.forward(&[5]).unwrap(), name);
            at_once.truncate(70);
            assert_same_bits(at_once.forward(&tokens[70..]).unwrap(), &prefilled, name);
        }
    }
}

#[test]
fn weights_in_huge_pages_give_the_same_bits() {
    for (name, file) in small_files().into_iter().chain(large_files()) {
        let options = ModelOptions::new().threads(2);
        let mapped = Model::from_bytes_with(file.clone(), &options).unwrap();
        let copied = Model::from_bytes_with(file, &options.huge_pages(true)).unwrap();
        assert_same_bits(&run(&copied), &run(&mapped), name);
        assert_eq!(copied.tensors(), mapped.tensors());
    }
}
