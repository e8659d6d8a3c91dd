//! Zip archives whose entries are stored as they are, as PyTorch writes them: where each entry's
//! bytes lie.
//!
//! ```text
//! for each entry  "PK\3\4", 22 bytes, u16 length of the name, u16 length of the extra field, both,
//!                 the bytes
//! for each entry  "PK\1\2": the same again, and the entry's offset: the directory
//! the end         "PK\5\6": the directory's offset; before it "PK\6\6" and "PK\6\7" if that takes
//!                 64 bits
//! ```
//!
//! Nothing is unpacked and nothing is written, so an archive can't grow, and its names can't lead
//! anywhere. What is compressed or encrypted is refused: no checkpoint is.
//!
//! Source: PKWARE's APPNOTE.TXT, 6.3.

use std::collections::HashMap;
use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::file::DataFile;
use crate::bytes::ByteReader;
use crate::error::{Error, Result};

const FORMAT: &str = "zip";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const DIRECTORY_ENTRY: &[u8; 4] = b"PK\x01\x02";
const ENTRY: &[u8] = b"PK\x03\x04";
/// The end, and the longest comment after it.
const MAX_END: u64 = 22 + 65_535;
/// The largest directory: of 8 bytes for each of a million weights no model's is.
const MAX_DIRECTORY: u64 = 1 << 24;

/// Where the bytes of each entry lie in the file, by names.
pub(super) fn entries(file: &DataFile) -> Result<HashMap<String, Range<u64>>> {
    let (start, len) = directory(file)?;
    let bytes = file.bytes("the zip directory", start, len, MAX_DIRECTORY)?;
    let mut entries = HashMap::new();
    let mut left = ByteReader::new(&bytes);
    while !left.rest().is_empty() {
        let entry = Entry::read(&mut left)?;
        let range = entry.range(file, start)?;
        if entries.insert(entry.name.clone(), range).is_some() {
            return Err(Error::malformed(FORMAT, format!("{:?} is there twice", entry.name)));
        }
    }
    check_apart(&entries)?;
    Ok(entries)
}

/// Where the directory starts, and its length.
fn directory(file: &DataFile) -> Result<(u64, u64)> {
    let from = file.len().saturating_sub(MAX_END);
    let tail = file.bytes("the archive's end", from, file.len() - from, MAX_END)?;
    // The comment's length reaches exactly to the end.
    let is_end = |&at: &usize| {
        let end = &tail[at..];
        end.starts_with(END) && 22 + usize::from(LittleEndian::read_u16(&end[20..])) == end.len()
    };
    let Some(at) = (0..=tail.len().saturating_sub(22)).rev().filter(|_| tail.len() >= 22).find(is_end) else {
        return Err(Error::malformed(FORMAT, "it has no end: it is cut short, or not an archive"));
    };
    let end = &tail[at..];
    let locator = at.checked_sub(20).map(|at| &tail[at..at + 20]).filter(|it| it.starts_with(LOCATOR_64));
    let Some(locator) = locator else {
        return Ok((LittleEndian::read_u32(&end[16..]).into(), LittleEndian::read_u32(&end[12..]).into()));
    };
    let mut end = [0; 56];
    file.read_at("the archive's end", LittleEndian::read_u64(&locator[8..]), &mut end)?;
    if !end.starts_with(END_64) {
        return Err(Error::malformed(FORMAT, "its end is not where it should be"));
    }
    Ok((LittleEndian::read_u64(&end[48..]), LittleEndian::read_u64(&end[40..])))
}

/// What the directory says of an entry.
#[derive(Debug)]
struct Entry {
    name: String,
    /// Where its own header is.
    at: u64,
    len: u64,
}

impl Entry {
    /// Takes the next entry off a directory.
    fn read(directory: &mut ByteReader<'_>) -> Result<Self> {
        const WHAT: &str = "an entry of the zip directory";
        if directory.array(WHAT)? != *DIRECTORY_ENTRY {
            return Err(Error::malformed(FORMAT, "the directory has something else than entries"));
        }
        directory.take(4, WHAT)?; // versions
        let (flags, method) = (directory.u16(WHAT)?, directory.u16(WHAT)?);
        directory.take(8, WHAT)?; // time, checksum
        let (packed, len) = (directory.u32(WHAT)?, directory.u32(WHAT)?);
        let lengths = [directory.u16(WHAT)?, directory.u16(WHAT)?, directory.u16(WHAT)?];
        directory.take(8, WHAT)?; // disk, attributes
        let at = directory.u32(WHAT)?;
        let [name, extra, comment] = lengths.map(u64::from);
        let name = String::from_utf8_lossy(directory.take(name, WHAT)?).into_owned();
        let extra = directory.take(extra, WHAT)?;
        directory.take(comment, WHAT)?;
        if flags & 1 != 0 || method != 0 {
            let how = if flags & 1 != 0 { "encrypted" } else { "compressed" };
            return Err(Error::malformed(FORMAT, format!("{name:?} is {how}: no checkpoint is")));
        }
        // Numbers of 64 bits are in the extra field, but only those that don't fit 32.
        let mut wide = wide_numbers(extra);
        let mut number = |number: u32| match number {
            u32::MAX => wide.next().ok_or_else(|| Error::malformed(FORMAT, "an extra field is cut short")),
            number => Ok(number.into()),
        };
        let (len, packed, at) = (number(len)?, number(packed)?, number(at)?);
        if len != packed {
            let reason = format!("{name:?} has {packed} bytes that are to become {len}");
            return Err(Error::malformed(FORMAT, reason));
        }
        Ok(Self { name, at, len })
    }

    /// Where its bytes lie, before the directory.
    fn range(&self, file: &DataFile, directory: u64) -> Result<Range<u64>> {
        let mut header = [0; 30];
        file.read_at("an entry's header", self.at, &mut header)?;
        if !header.starts_with(ENTRY) {
            return Err(Error::malformed(FORMAT, format!("{:?} is not where the directory says", self.name)));
        }
        let u16_at = |at: usize| u64::from(LittleEndian::read_u16(&header[at..]));
        let start = self.at.checked_add(30 + u16_at(26) + u16_at(28));
        let range = start.and_then(|start| Some(start..start.checked_add(self.len)?));
        range
            .filter(|range| range.end <= directory)
            .ok_or_else(|| Error::malformed(FORMAT, format!("{:?} runs into the directory", self.name)))
    }
}

/// The numbers of an entry's field for numbers of 64 bits.
fn wide_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut numbers: &[u8] = &[];
    while let [kind @ .., _, _] = extra.get(..4).unwrap_or_default() {
        let len = usize::from(LittleEndian::read_u16(&extra[2..]));
        let Some(field) = extra.get(4..4 + len) else { break };
        if *kind == [1, 0] {
            numbers = field;
        }
        extra = &extra[4 + len..];
    }
    numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Checks that no two entries share bytes.
fn check_apart(entries: &HashMap<String, Range<u64>>) -> Result<()> {
    let mut places: Vec<_> = entries.iter().map(|(name, range)| (range.start, range.end, name)).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(Error::malformed(FORMAT, format!("{:?} and {:?} overlap", pair[0].2, pair[1].2)));
        }
    }
    Ok(())
}
