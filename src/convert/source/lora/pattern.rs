//! The keys of PEFT's `rank_pattern` and `alpha_pattern`: regular expressions of modules' names, of
//! which those are read that are written in practice.

/// A character of a pattern: what it stands for, and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Atom {
    class: Class,
    is_repeated: bool,
    may_be_absent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    Any,
    Digit,
    One(char),
}

/// A pattern that is understood.
#[derive(Debug)]
pub(super) struct Pattern {
    atoms: Vec<Atom>,
    /// Whether it is of the whole name, and not of its last parts.
    is_whole: bool,
}

impl Pattern {
    /// `None` of a pattern that isn't understood: it may have letters, `.`, `\.`, `\d`, `*`, `+`,
    /// and `^` at its beginning.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (is_whole, text) = text.strip_prefix('^').map_or((false, text), |text| (true, text));
        let mut atoms: Vec<Atom> = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let class = match c {
                '.' => Class::Any,
                '\\' => match chars.next()? {
                    'd' => Class::Digit,
                    c if c.is_alphanumeric() => return None,
                    c => Class::One(c),
                },
                '*' | '+' => {
                    let last = atoms.last_mut().filter(|last| !last.is_repeated)?;
                    (last.is_repeated, last.may_be_absent) = (true, c == '*');
                    continue;
                }
                '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => return None,
                c => Class::One(c),
            };
            atoms.push(Atom { class, is_repeated: false, may_be_absent: false });
        }
        Some(Self { atoms, is_whole })
    }

    /// Whether a module's name is one, or ends in one after a dot.
    pub(super) fn matches(&self, name: &str) -> bool {
        let ends = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
        std::iter::once(name).chain(ends.filter(|_| !self.is_whole)).any(|name| self.is(name))
    }

    /// Whether all of a text is one. It takes steps of the text times those of the pattern.
    fn is(&self, text: &str) -> bool {
        let n = self.atoms.len();
        let mut reached = vec![false; n + 1]; // how many atoms may be behind
        reached[0] = true;
        let skip = |reached: &mut [bool]| {
            for i in 0..n {
                reached[i + 1] |= reached[i] && self.atoms[i].may_be_absent;
            }
        };
        skip(&mut reached);
        for c in text.chars() {
            let mut next = vec![false; n + 1];
            for (i, atom) in self.atoms.iter().enumerate() {
                let is_one = match atom.class {
                    Class::Any => true,
                    Class::Digit => c.is_ascii_digit(),
                    Class::One(one) => one == c,
                };
                // Again, after it was met, or for the first time.
                next[i + 1] |= is_one && (reached[i] || (atom.is_repeated && reached[i + 1]));
            }
            skip(&mut next);
            reached = next;
        }
        reached[n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_python() {
        let name = "model.layers.12.self_attn.q_proj";
        for (pattern, expected) in [
            ("q_proj", true),
            ("proj", false),
            ("self_attn.q_proj", true),
            ("attn.q_proj", false),
            ("model.layers.12.self_attn.q_proj", true),
            ("^model.layers.12.self_attn.q_proj", true),
            ("^self_attn.q_proj", false),
            (r"layers\.\d+\.self_attn\.q_proj", true),
            (r"layers\.\d\.self_attn\.q_proj", false),
            (r"layers\.1\d*\..*_proj", true),
            (r"layers\.12.*", true),
            ("k_proj", false),
            (".+", true),
            ("", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern}");
        }
        for pattern in ["q_proj|k_proj", "[qk]_proj", "(q)_proj", r"\w", "*a", "a**", "a$", "\\"] {
            assert!(Pattern::parse(pattern).is_none(), "{pattern}");
        }
    }
}
