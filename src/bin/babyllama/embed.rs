//! `babyllama embed`: the vectors of texts.

use std::path::Path;

use serde_json::json;

use crate::commands::EmbedArgs;
use crate::error::CliError;
use crate::models;
use crate::output::{json_line, print, read_text};

pub(crate) fn run(args: &EmbedArgs) -> Result<(), CliError> {
    let options = args.engine.model_options(args.tokenizer.path.as_deref());
    let model = models::open(&args.model, &options)?;
    let tokenizer = models::tokenizer(&model, &args.model)?;
    let choose = |e| CliError::of(args.model.display(), format!("{e}; --pooling chooses another"));
    let pooling = args.pooling.map_or_else(|| model.pooling().map_err(choose), Ok)?;
    let mut session = model.session_with(args.engine.session_options());
    let text = if args.text == "-" { read_text(Path::new("-"))? } else { args.text.clone() };

    for (i, line) in text.lines().enumerate() {
        let tokens = tokenizer.encode_prompt(line);
        if tokens.is_empty() {
            let reason = "it has no token, and the model has no BOS token";
            return Err(CliError::of(format!("line {}", i + 1), reason));
        }
        models::check_context(&session, tokens.len())?;
        session.truncate(0);
        let vector = session.embed(&tokens, pooling)?;
        let shown = if args.json {
            json_line(&json!({ "text": line, "embedding": vector }))
        } else {
            vector.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") + "\n"
        };
        print(shown.as_bytes())?;
    }
    Ok(())
}
