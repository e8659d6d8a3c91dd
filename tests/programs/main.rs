//! Complete programs, to be read and copied: how an embedder uses this crate for
//!
//! - `chat_service`: a chat over HTTP, for many clients at the same time
//! - `classification`: texts sorted by what the model holds for likely
//! - `extraction`: JSON by a schema, out of texts
//!
//! Each is a module with functions that a `main` would call, and has its tests beside it. They run
//! the bundled model, which only tells stories.

#![allow(unreachable_pub, clippy::missing_errors_doc, reason = "`pub` is what a `main` would call")]

mod chat_service;
mod classification;
#[cfg(feature = "grammar")]
mod extraction;
