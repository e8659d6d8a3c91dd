//! Thousands of random operations on a tree of sessions. Beside each session is the text that it
//! should have read, and a text's results are those of a session that read it in a single call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use babyllama::{CacheDtype, ErrorKind, Pooling, Session};

use crate::common::{RandomModel, SplitMix64, open};
use crate::fresh::{Fresh, observe, saved, some_tokens};
use crate::{SHAPE, UNOPTIMIZED};

/// A session, and what it should have read.
struct Node {
    session: Session,
    text: Vec<u32>,
}

struct Tree {
    fresh: Fresh,
    nodes: Vec<Node>,
    rng: SplitMix64,
}

impl Tree {
    /// One random operation on one session, or on several.
    fn operate(&mut self) {
        let i = self.rng.below(self.nodes.len());
        match self.rng.below(8) {
            0 if self.nodes.len() < 12 => {
                let Node { session, text } = &self.nodes[i];
                let fork = Node { session: session.fork().unwrap(), text: text.clone() };
                assert_eq!(observe(&fork.session), observe(session));
                self.nodes.push(fork);
            }
            1 if self.nodes.len() > 1 => drop(self.nodes.swap_remove(i)),
            2 => self.together(),
            3 => self.take_back(i),
            4 => {
                let saved = saved(&self.nodes[i].session);
                let restored = self.fresh.model.restore(&saved[..], self.fresh.options).unwrap();
                assert_eq!(observe(&restored), observe(&self.nodes[i].session));
                self.nodes[i].session = restored;
            }
            _ => self.feed(i),
        }
        // What goes wrong in another session stays wrong until it is looked at.
        let looks_at_all = self.rng.below(6) == 0;
        let looked_at = if looks_at_all { 0..self.nodes.len() } else { i..self.nodes.len().min(i + 1) };
        for Node { session, text } in &self.nodes[looked_at] {
            self.fresh.check(session, text, "a session");
        }
        if let Some(Node { session, text }) = self.nodes.get(i).filter(|_| self.rng.below(4) == 0) {
            self.fresh.check_all(session, text, "the session");
        }
    }

    /// Truncates one, or gives it another text that may begin with the same tokens.
    fn take_back(&mut self, i: usize) {
        let Node { session, text } = &mut self.nodes[i];
        let to = self.rng.below(text.len() + 1);
        let to = [to, to / 64 * 64, text.len()][self.rng.below(3)];
        let max = if self.rng.below(8) == 0 { 130 } else { 4 };
        let tokens = some_tokens(&mut self.rng, max);
        if self.rng.below(2) == 0 || to + tokens.len() > session.capacity() {
            session.truncate(to);
            text.truncate(to);
            return;
        }
        let wanted = [&text[..to], &tokens].concat();
        let n = session.keep_prefix(&wanted);
        assert!(n < wanted.len() && session.tokens() == &wanted[..n]);
        session.forward(&wanted[n..]).unwrap();
        *text = wanted;
    }

    /// Feeds one some tokens, in one of all ways.
    fn feed(&mut self, i: usize) {
        let rng = &mut self.rng;
        let max = if rng.below(8) == 0 { 130 } else { 4 };
        let tokens = some_tokens(rng, max);
        let Node { session, text } = &mut self.nodes[i];
        if text.len() + tokens.len() > session.capacity() {
            let before = observe(session);
            assert!(matches!(session.forward(&tokens).unwrap_err().kind(), ErrorKind::ContextFull { .. }));
            assert_eq!(observe(session), before);
            return;
        }
        let longer = [&text[..], &tokens].concat();
        match rng.below(8) {
            0 => {
                let all = session.forward_all(&tokens).unwrap().to_vec();
                let vocab_size = self.fresh.model.config().vocab_size;
                let row = rng.below(tokens.len());
                let found: Vec<u32> =
                    all[row * vocab_size..][..vocab_size].iter().map(|x| x.to_bits()).collect();
                let read = &longer[..text.len() + row + 1];
                assert_eq!(found, self.fresh.bits(read)[..vocab_size], "row {row}");
            }
            1 | 2 => drop(session.forward_guessing(&tokens, &some_tokens(rng, 20)).unwrap()),
            3 => {
                let mut feed = session.feed(&tokens);
                while feed.step().unwrap().is_some() && rng.below(3) > 0 {}
            }
            4 => {
                session.score(&tokens).unwrap();
            }
            5 => {
                session.embed(&tokens, Pooling::ALL[rng.below(2)]).unwrap();
            }
            6 => cancelled(session, &tokens),
            _ => drop(session.forward(&tokens).unwrap()),
        }
        let n = session.position();
        assert!(n >= text.len());
        *text = longer[..n].to_vec();
    }

    /// Feeds some of the sessions in one pass, with guesses.
    fn together(&mut self) {
        let Self { fresh, nodes, rng } = self;
        let wanted: Vec<_> = (nodes.iter())
            .map(|Node { session, text }| {
                let room = session.capacity() - text.len();
                let max = room.min(if rng.below(6) == 0 { 300 } else { 3 });
                let tokens = if max > 0 && rng.below(4) > 0 { some_tokens(rng, max) } else { Vec::new() };
                (tokens, some_tokens(rng, 5))
            })
            .collect();
        let feeds = nodes.iter_mut().zip(&wanted).filter(|(_, (tokens, _))| !tokens.is_empty());
        let feeds = feeds.map(|(node, (tokens, guess))| {
            node.text.extend(tokens);
            node.session.feed(tokens).guessing(guess)
        });
        fresh.model.forward_together(feeds).unwrap();
    }
}

/// A pass that is cancelled feeds nothing; what was guessed needs none.
fn cancelled(session: &mut Session, tokens: &[u32]) {
    let stop = Arc::new(AtomicBool::new(true));
    let before = session.position();
    session.cancel_on(Arc::clone(&stop));
    match session.forward(tokens) {
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Cancelled), "{error}"),
        Ok(_) => assert!(session.position() == before + tokens.len(), "all of it was guessed"),
    }
    stop.store(false, Ordering::Relaxed);
}

fn soak(file: Vec<u8>, dtype: CacheDtype, n_operations: usize) {
    let fresh = Fresh::with_context(&open(file), dtype, 260);
    let root = Node { session: fresh.session(), text: Vec::new() };
    let mut tree = Tree { fresh, nodes: vec![root], rng: SplitMix64::new(5) };
    for _ in 0..if UNOPTIMIZED { n_operations / 5 } else { n_operations } {
        tree.operate();
    }
}

#[test]
fn law_13_eight_thousand_operations_on_a_tree_of_sessions_change_no_bit() {
    soak(RandomModel::new(SHAPE, 11).to_v1(), CacheDtype::F32, 8_000);
}

#[test]
fn law_13_two_thousand_operations_with_a_cache_in_f16_change_no_bit() {
    soak(RandomModel::new(SHAPE, 11).to_v1(), CacheDtype::F16, 2_000);
}

#[test]
fn law_13_two_thousand_operations_with_a_cache_in_q8_0_change_no_bit() {
    soak(RandomModel::new(SHAPE, 11).to_v1(), CacheDtype::Q8_0, 2_000);
}

/// Its groups of eight are slow.
#[test]
fn law_13_hundreds_of_operations_with_weights_in_int8_change_no_bit() {
    soak(RandomModel::new(SHAPE, 11).to_v2(8), CacheDtype::F16, 400);
}
