//! Sessions in files: what was read, so that it needn't be read again.
//!
//! ```text
//! header    "bbllsess", version u32, fingerprint u64, instruction set 16 bytes, cache dtype u8,
//!           flags u8, pending token u32, position u64, held text's bytes u32, decoder's bytes u8,
//!           rows of results u8
//! text      tokens u32 x position, held text, decoder's bytes
//! cache     for each layer and head: keys (position, width), then values (position, width); where
//!           attention has a window, of those positions alone that the next token sees
//! results   logits f32 x vocab_size, hidden state f32 x dim
//! ```
//!
//! All numbers are little-endian. Each of these sections, and each layer and head of the cache, is
//! followed by a checksum of its bytes and of all before it. The order is that of positions,
//! whatever the cache's is, so equal sessions give equal files.

use std::io::{Read, Write};
use std::ops::Range;

use super::pass::Results;
use super::{Session, SessionOptions, Tail};
use crate::bytes::{ByteReader, Checksum};
use crate::error::{ErrorKind, Result, TokenId};
use crate::model::Model;
use crate::tokenizer::Decoder;

const MAGIC: &[u8; 8] = b"bbllsess";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 8 + 4 + 8 + 16 + 1 + 1 + 4 + 8 + 4 + 1 + 1;
const ISA_LEN: usize = 16;

/// Flags of the header.
const HAS_PENDING: u8 = 1;
const HAS_DECODER: u8 = 2;
const IS_AT_START: u8 = 4;
const IS_LONG: u8 = 8; // its keys are rotated as in a long context
const IS_SEEN: u8 = 16; // its cache has those positions alone that the next token sees
const IS_UNREAD: u8 = 32; // its cache has none: they are to be read again

/// Writes sections.
struct SectionWriter<W> {
    to: W,
    checksum: Checksum,
}

impl<W: Write> SectionWriter<W> {
    fn write(&mut self, section: &[u8]) -> Result<()> {
        self.checksum.add(section);
        self.to.write_all(section)?;
        Ok(self.to.write_all(&self.checksum.sum().to_le_bytes())?)
    }
}

/// Reads sections.
struct SectionReader<R> {
    from: R,
    checksum: Checksum,
}

impl<R: Read> SectionReader<R> {
    /// A section of this length. It takes no more memory than there are bytes.
    fn read(&mut self, what: &str, len: usize) -> Result<Vec<u8>> {
        let mut section = Vec::new();
        let len = len as u64 + 8;
        (&mut self.from).take(len).read_to_end(&mut section)?;
        let Some((bytes, sum)) = section.split_last_chunk::<8>().filter(|_| section.len() as u64 == len)
        else {
            return Err(refused(format!("it ends in its {what}, after {} of {len} bytes", section.len())));
        };
        self.checksum.add(bytes);
        if u64::from_le_bytes(*sum) != self.checksum.sum() {
            return Err(refused(format!("its {what} is damaged: the checksum differs")));
        }
        section.truncate(section.len() - 8);
        Ok(section)
    }
}

fn refused(reason: String) -> crate::error::Error {
    ErrorKind::SavedSession { reason }.into()
}

fn floats(floats: &[f32], to: &mut Vec<u8>) {
    to.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
}

impl Session {
    /// Writes the session, to be taken up again by [`Model::restore`]: tokens, with the pending
    /// one and what a generation held back, keys and values, and the last logits.
    ///
    /// It writes often and little: give it a `BufWriter`, or a `Vec`. Equal sessions give equal
    /// bytes.
    ///
    /// ```
    /// # use babyllama::SessionOptions;
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.forward(&[1, 403, 407])?;
    /// let mut saved = Vec::new();
    /// session.save(&mut saved)?;
    ///
    /// let mut restored = model.restore(&saved[..], SessionOptions::new())?;
    /// assert_eq!(restored.logits(), session.logits());
    /// assert_eq!(restored.forward(&[261])?, session.forward(&[261])?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn save(&self, to: impl Write) -> Result<()> {
        let config = self.model.config();
        let mut writer = SectionWriter { to, checksum: Checksum::new() };
        let Tail { pending, decoder, held } = &self.tail;
        let (at_start, decoding) = decoder.as_ref().map_or((false, &[][..]), Decoder::state);
        let is_read = self.n_cached == self.position() && self.cache.sees(self.position());
        let flags = [
            (pending.is_some(), HAS_PENDING),
            (decoder.is_some(), HAS_DECODER),
            (at_start, IS_AT_START),
            (self.model.llama().rope_frequencies.is_long(self.capacity), IS_LONG),
            (self.cache.reach().lets_go() || !self.cache.sees(0), IS_SEEN),
            (!is_read && self.position() > 0, IS_UNREAD),
        ];
        let flags: u8 = flags.into_iter().filter(|&(is_on, _)| is_on).map(|(_, flag)| flag).sum();
        let results = self.logits().zip(self.hidden());

        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(self.model.fingerprint().to_le_bytes());
        header.extend(isa_name(&self.model));
        header.extend([self.cache.dtype() as u8, flags]);
        header.extend(pending.unwrap_or_default().to_le_bytes());
        header.extend((self.position() as u64).to_le_bytes());
        header.extend((held.len() as u32).to_le_bytes());
        header.extend([decoding.len() as u8, u8::from(results.is_some())]);
        writer.write(&header)?;

        let mut section = Vec::new();
        self.tokens.iter().for_each(|token| section.extend(token.to_le_bytes()));
        section.extend(held.as_bytes());
        section.extend(decoding);
        writer.write(&section)?;

        let saved = self.saved(self.position(), flags);
        for layer in 0..config.n_layers {
            for head in 0..config.n_kv_heads {
                section.clear();
                self.cache.read_head(layer, head, saved.clone(), &mut section);
                writer.write(&section)?;
            }
        }
        if let Some((logits, hidden)) = results {
            section.clear();
            floats(logits, &mut section);
            floats(hidden, &mut section);
            writer.write(&section)?;
        }
        Ok(writer.to.flush()?)
    }

    /// The positions of which a file with these flags has keys and values.
    fn saved(&self, position: usize, flags: u8) -> Range<usize> {
        match flags & (IS_SEEN | IS_UNREAD) {
            0 => 0..position,
            IS_SEEN => self.cache.reach().first_seen(position).min(position)..position,
            _ => position..position,
        }
    }
}

/// The name of the instruction set, with zeros.
fn isa_name(model: &Model) -> [u8; ISA_LEN] {
    let (name, mut padded) = (model.isa().name(), [0; ISA_LEN]);
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

/// What a header says.
struct Header {
    flags: u8,
    pending: TokenId,
    position: usize,
    held: usize,
    decoding: usize,
    has_results: bool,
}

impl Model {
    /// Takes up a session that [`Session::save`] wrote. It is refused unless it is whole, and of
    /// this model on this instruction set; the options must name the same
    /// [`cache_dtype`](SessionOptions::cache_dtype), and a context that it fits.
    ///
    /// It reads no further than the session's end. A `BufReader` isn't needed.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::SessionOptions;
    /// let mut session = model.session();
    /// session.forward(&[1, 403, 407])?;
    /// let mut saved = Vec::new();
    /// session.save(&mut saved)?;
    /// assert_eq!(model.restore(&saved[..], SessionOptions::new())?.tokens(), [1, 403, 407]);
    ///
    /// saved[99] ^= 1;
    /// let error = model.restore(&saved[..], SessionOptions::new()).unwrap_err();
    /// assert!(error.to_string().contains("damaged"), "{error}");
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::SavedSession`] says why it was refused; [`ErrorKind::ContextFull`],
    /// [`ErrorKind::OutOfMemory`], [`ErrorKind::Io`].
    pub fn restore(&self, mut from: impl Read, options: SessionOptions) -> Result<Session> {
        let config = self.config();
        let mut magic = Vec::new();
        from.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        // Before the checksum, so that it isn't called damaged.
        if magic != MAGIC {
            return Err(refused("it isn't a saved session".into()));
        }
        let mut reader = SectionReader { from: magic.as_slice().chain(from), checksum: Checksum::new() };
        let header = self.check_header(&reader.read("header", HEADER_LEN)?, options)?;
        let mut session = self.session_with(options);
        let Header { flags, pending, position, held, decoding, has_results } = header;
        if position > session.capacity {
            return Err(ErrorKind::ContextFull { capacity: session.capacity, requested: position }.into());
        }

        let text = reader
            .read("text", position.saturating_mul(size_of::<TokenId>()).saturating_add(held + decoding))?;
        let (tokens, rest) = text.split_at(position * size_of::<TokenId>());
        let tokens = tokens.as_chunks::<4>().0.iter().map(|&token| TokenId::from_le_bytes(token));
        let tokens: Vec<TokenId> = tokens.collect();
        session.check(&tokens)?;
        let (held, decoding) = rest.split_at(held);
        let held = str::from_utf8(held).map_err(|_| refused("its held text isn't UTF-8".into()))?;
        let saved = session.saved(position, flags);
        if session.cache.reach().lets_go() || saved.start > 0 {
            session.cache.reserve_span(saved.clone())?;
        } else if position > 0 {
            session.reserve_all(position)?;
        }
        session.tokens = tokens;
        session.n_cached = if flags & IS_UNREAD == 0 { position } else { 0 };

        let len = 2 * saved.len() * session.cache.dtype().bytes(config.head_dim);
        for layer in 0..config.n_layers {
            for head in 0..config.n_kv_heads {
                session.cache.write_head(layer, head, saved.start, &reader.read("cache", len)?);
            }
        }
        if has_results {
            let results = reader.read("results", (config.vocab_size + config.dim) * size_of::<f32>())?;
            let results = results.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x));
            let mut logits: Vec<f32> = results.collect();
            let hidden = logits.split_off(config.vocab_size);
            session.results = Results::new(logits, hidden);
        }
        session.tail.held.push_str(held);
        session.tail.pending = (flags & HAS_PENDING != 0).then_some(pending);
        session.tail.decoder =
            (flags & HAS_DECODER != 0).then(|| Decoder::from_state(flags & IS_AT_START != 0, decoding));
        Ok(session)
    }

    /// Checks that keys are rotated as in a session of this capacity.
    fn check_rope(&self, is_long: bool, capacity: usize) -> Result<()> {
        let frequencies = &self.llama().rope_frequencies;
        if frequencies.is_long(capacity) == is_long {
            return Ok(());
        }
        let original = frequencies.longest_short_context().unwrap_or(usize::MAX);
        let (theirs, ours) = if is_long { ("long", "short") } else { ("short", "long") };
        Err(refused(format!(
            "its keys were computed with the {theirs} RoPE factors, and a context of {capacity} positions takes the \
             {ours} ones: the short ones are for no more than {original}"
        )))
    }

    fn check_header(&self, header: &[u8], options: SessionOptions) -> Result<Header> {
        let mut reader = ByteReader::new(&header[MAGIC.len()..]);
        let version = u32::from_le_bytes(reader.array("the header")?);
        if version != VERSION {
            return Err(refused(format!("its version is {version}, and this crate reads {VERSION}")));
        }
        let fingerprint = u64::from_le_bytes(reader.array("the header")?);
        if fingerprint != self.fingerprint() {
            let ours = self.fingerprint();
            return Err(refused(format!(
                "it is of another model ({fingerprint:016x}, this one is {ours:016x})"
            )));
        }
        let isa: [u8; ISA_LEN] = reader.array("the header")?;
        if isa != isa_name(self) {
            let theirs = String::from_utf8_lossy(&isa).trim_end_matches('\0').to_owned();
            return Err(refused(format!(
                "it was computed with {theirs}, and this model uses {}",
                self.isa()
            )));
        }
        let [dtype, flags] = reader.array("the header")?;
        if dtype != options.cache_dtype as u8 {
            return Err(refused(format!(
                "its cache_dtype isn't {}, which was asked for",
                options.cache_dtype
            )));
        }
        self.check_rope(flags & IS_LONG != 0, options.context_length.unwrap_or(self.config().max_seq_len))?;
        let pending = TokenId::from_le_bytes(reader.array("the header")?);
        let position = u64::from_le_bytes(reader.array("the header")?);
        let held = u32::from_le_bytes(reader.array("the header")?) as usize;
        let [decoding, rows] = reader.array("the header")?;
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        let vocab_size = self.config().vocab_size;
        if flags & HAS_PENDING != 0 && pending as usize >= vocab_size {
            return Err(ErrorKind::TokenOutOfRange { token: pending, vocab_size }.into());
        }
        if rows > 1 || rows > 0 && position == 0 {
            return Err(refused("its results follow no token".into()));
        }
        Ok(Header { flags, pending, position, held, decoding: decoding.into(), has_results: rows == 1 })
    }
}
