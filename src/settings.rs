//! What the reader of a file does with each setting that the file may have.
//!
//! A setting that is passed over makes a wrong model without a word. So each kind of file has one
//! table of the settings that are known, which its reader goes through: a setting is honored by the
//! code that reads it, refused by name, or known to change nothing that is computed. What isn't in
//! the table is named in a note.

/// A setting: where it is in the file, and what is done with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<P> {
    pub(crate) key: &'static str,
    pub(crate) treatment: Treatment<P>,
}

/// What is done with a setting. `P` decides whether a value of it changes nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Treatment<P> {
    /// It is read, and counts.
    Honored,
    /// It is refused, unless the value is one that changes nothing. With the reason, for people.
    RefusedUnless(P, &'static str),
    /// No value of it changes what is computed, for this reason.
    Harmless(#[allow(dead_code, reason = "it is for whoever reads a table")] &'static str),
}

/// The setting of this key, if it is known.
pub(crate) fn find<'a, P>(table: &'a [Setting<P>], key: &str) -> Option<&'a Setting<P>> {
    table.iter().find(|setting| setting.key == key)
}

pub(crate) const fn honored<P>(key: &'static str) -> Setting<P> {
    Setting { key, treatment: Treatment::Honored }
}

pub(crate) const fn refused<P: Copy>(key: &'static str, unless: P, reason: &'static str) -> Setting<P> {
    Setting { key, treatment: Treatment::RefusedUnless(unless, reason) }
}

pub(crate) const fn harmless<P>(key: &'static str, reason: &'static str) -> Setting<P> {
    Setting { key, treatment: Treatment::Harmless(reason) }
}
