//! The bundled binary: runs Llama models at a terminal. It uses only the library's public API, so
//! it is an example of it too: `generator.rs` generates text, `chat.rs` holds a conversation.
//!
//! Exit codes: 0, also when the reader of a pipe has closed it; 1 for errors; 2 for wrong usage;
//! 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.

mod args;
mod bench;
mod chat;
mod commands;
mod constraint;
mod convert;
mod draft;
mod embed;
mod error;
mod generator;
mod input;
mod inspect;
mod interrupt;
mod logits;
mod machine;
mod models;
mod output;
mod perplexity;
mod run;
mod score;
mod session_file;
mod synthetic;
mod template;
mod tokenize;
mod unrunnable;

use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches};

use commands::{Cli, Command};
use error::CliError;

/// The command line. Colors are switched here because clap alone would use them for TERM=dumb if CI
/// is set.
fn command() -> clap::Command {
    let has_colors = output::takes_escapes(&std::io::stderr());
    Cli::command().color(if has_colors { ColorChoice::Auto } else { ColorChoice::Never })
}

fn main() -> ExitCode {
    let parsed = command().try_get_matches();
    let parsed = parsed
        .and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command())));
    let cli = parsed.unwrap_or_else(|error| {
        let _ = error.print();
        // llama2.c takes the model file first.
        if let (ErrorKind::InvalidSubcommand, Some(file)) = (error.kind(), std::env::args_os().nth(1))
            && Path::new(&file).is_file()
        {
            output::tell(&format!("\n  tip: to run a model: babyllama run {}", file.display()));
        }
        std::process::exit(error.exit_code())
    });
    output::set_quiet(cli.quiet);
    let given = cli.command.unwrap_or_else(|| Command::story(cli.seed));
    let result = match &given {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Score(args) => score::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(()) | Err(CliError::ReaderGone) => ExitCode::SUCCESS,
        Err(CliError::Interrupted) => ExitCode::from(interrupt::exit_code()),
        Err(CliError::Usage(reason)) => {
            // With the usage of the command that failed.
            let mut command = command();
            command.build();
            let name = std::env::args().nth(1).unwrap_or_default();
            let command = command.find_subcommand(&name).cloned().unwrap_or(command);
            let _ = command.clone().error(ErrorKind::ValueValidation, reason).print();
            ExitCode::from(2)
        }
        Err(CliError::Error(reason)) => {
            output::tell(&format!("error: {reason}"));
            ExitCode::FAILURE
        }
    }
}
