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

    // An empty argument is a text; an empty file has none.
    let lines = text.lines().chain(args.text.is_empty().then_some(""));
    for (i, line) in lines.enumerate() {
        let tokens = tokenizer.encode_prompt(line);
        if tokens.is_empty() {
            let reason = "it has no token, and the model has no BOS token";
            return Err(CliError::of(format!("line {}", i + 1), reason));
        }
        models::check_context(&session, tokens.len())?;
        session.truncate(0);
        let vector = session.embed(&tokens, pooling)?;
        let numbers: Vec<String> = vector.iter().map(ToString::to_string).collect();
        let shown = if args.json {
            // With the digits that an f32 has.
            let numbers: Vec<Option<f64>> = numbers.iter().map(|number| number.parse().ok()).collect();
            json_line(&json!({ "text": line, "embedding": numbers }))
        } else {
            numbers.join(" ") + "\n"
        };
        print(shown.as_bytes())?;
    }
    Ok(())
}
