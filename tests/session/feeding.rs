//! Prefill gives the bits of decode, and tokens that are taken back or forked leave no trace.

use babyllama::Isa;

use crate::common::{assert_same_bits, open, open_on, step_by_step};
use crate::{SHAPE, UNOPTIMIZED, open_small, small_files, tokens};

#[test]
fn prefill_gives_the_bits_of_as_many_decodes() {
    // 255 to 257 are around the batch that passes through the layers at once, and 600 are three of
    // them. 1 to 9 have all remainders of the tiles of tokens.
    let lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 255, 256, 257, 300, 600];
    let longest = if UNOPTIMIZED { 300 } else { 600 };
    for (name, file) in small_files().into_iter().skip(usize::from(UNOPTIMIZED)) {
        for isa in Isa::available() {
            let model = open_on(file.clone(), isa, 1);
            let tokens = tokens(longest, SHAPE.vocab_size);
            let one_by_one = step_by_step(&model, &tokens);
            for n in lengths
                .into_iter()
                .filter(|n| *n <= longest && !(UNOPTIMIZED && [1, 6, 8, 9, 63, 255, 256].contains(n)))
            {
                let mut session = model.session();
                let expected = &one_by_one[(n - 1) * SHAPE.vocab_size..][..SHAPE.vocab_size];
                let what = format!("{name} {} {n} tokens", isa.name());
                assert_same_bits(session.forward(&tokens[..n]).unwrap(), expected, &what);
                assert_eq!((session.position(), session.tokens()), (n, &tokens[..n]), "{what}");
            }
        }
    }
}

#[test]
fn every_row_of_forward_all_is_a_decodes() {
    for (name, file) in small_files() {
        let model = open(file);
        let tokens = tokens(300, SHAPE.vocab_size);
        let one_by_one = step_by_step(&model, &tokens);
        let mut session = model.session();
        assert_same_bits(session.forward_all(&tokens).unwrap(), &one_by_one, name);
        assert_same_bits(session.logits().unwrap(), &one_by_one[299 * SHAPE.vocab_size..], name);
        assert_eq!(session.position(), 300);
    }
}

#[test]
fn logits_depend_on_every_token_before_them() {
    // The tests above would pass if attention saw nothing but its own position.
    let model = open_small();
    let mut other = tokens(100, SHAPE.vocab_size);
    let before = step_by_step(&model, &other);
    for changed in [0, 40, 63, 64] {
        other[changed] ^= 1;
        let after = model.session().forward(&other).unwrap().to_vec();
        assert_ne!(after, before[99 * SHAPE.vocab_size..], "token {changed} must matter");
        other[changed] ^= 1;
    }
}

#[test]
fn truncating_to_what_is_there_or_more_changes_nothing() {
    let mut session = open_small().session();
    session.truncate(0);
    session.truncate(9);
    assert_eq!((session.position(), session.logits()), (0, None));
    let logits = session.forward(&[1, 2, 3]).unwrap().to_vec();
    for position in [3, 4, usize::MAX] {
        session.truncate(position);
        assert_eq!((session.position(), session.logits()), (3, Some(&logits[..])));
    }
}
