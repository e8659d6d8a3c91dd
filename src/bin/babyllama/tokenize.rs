//! `babyllama tokenize`: the tokens of a text.

use std::ffi::OsStr;
use std::path::Path;

use babyllama::{ErrorKind, ModelOptions, TokenId, Tokenizer};

use crate::commands::TokenizeArgs;
use crate::error::CliError;
use crate::models::{self, BUNDLED};
use crate::output::{print, read_text};

pub(crate) fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    match (&args.tokenizer.path, &args.second) {
        (Some(path), None) => print_tokens(&Tokenizer::open(path)?, &args.first, args),
        (None, Some(text)) => {
            let path = Path::new(&args.first);
            // A GGUF file with a tokenizer is enough: the model itself may be one that can't run.
            match Tokenizer::from_gguf(path) {
                Ok(tokenizer) if path != Path::new(BUNDLED) => {
                    return print_tokens(&tokenizer, text, args);
                }
                Err(e) if !matches!(e.kind(), ErrorKind::NoTokenizer | ErrorKind::Io(_)) => {
                    return Err(e.into());
                }
                _ => {}
            }
            let model = models::open(path, &ModelOptions::new().threads(1))?;
            print_tokens(models::tokenizer(&model, path)?, text, args)
        }
        (Some(_), Some(_)) => Err(CliError::Usage("give either a model or --tokenizer, not both".into())),
        (None, None) => Err(CliError::Usage("give a model (or --tokenizer FILE) and a text".into())),
    }
}

fn print_tokens(tokenizer: &Tokenizer, text: &OsStr, args: &TokenizeArgs) -> Result<(), CliError> {
    let text = match text.to_str() {
        Some("-") => read_text(Path::new("-"))?,
        Some(text) => text.into(),
        None => return Err(CliError::Usage("the text is not valid UTF-8".into())),
    };
    let tokens = match (args.special, args.no_bos) {
        (false, false) => tokenizer.encode_prompt(&text),
        (false, true) => tokenizer.encode(&text),
        (true, false) => special_prompt(tokenizer, &text),
        (true, true) => tokenizer.encode_with_control(&text),
    };
    let ids: Vec<_> = tokens.iter().map(ToString::to_string).collect();
    print(format!("{}\n", ids.join(" ")).as_bytes())
}

/// The tokens of a prompt that may name control tokens: BOS is there once.
pub(crate) fn special_prompt(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
    let mut tokens = tokenizer.encode_with_control(text);
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    tokens
}
