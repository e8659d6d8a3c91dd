//! What programs rely on in the public types, besides what they do.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;

use babyllama::chat::{Message, Part, Role, Template};
use babyllama::inspect::{GgufFile, GgufTensor};
use babyllama::{
    Answer, CacheDtype, Chat, Config, ContextPolicy, Decoder, Dtype, Error, ErrorKind, FinishReason,
    Generate, Isa, Model, ModelBytes, ModelOptions, Perplexity, PerplexityOptions, Piece, PieceKind, Prompt,
    Rng, RopeScaling, Sampler, SamplerOptions, SamplingDefaults, Score, Session, SessionOptions, TensorInfo,
    TokenLogprob, Tokenizer, TokenizerSource,
};

/// A test for each bound, which fails to compile if a type loses it.
macro_rules! are {
    ($(#[$meta:meta])* $name:ident: $($bound:path),+; $($type:ty),+ $(,)?) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            fn holds<T: ?Sized $(+ $bound)+>() {}
            $(holds::<$type>();)+
        }
    };
}

are!(what_is_opened_is_shared_between_threads: Send, Sync, Debug;
    Model, ModelBytes, ModelOptions, Session, SessionOptions, Tokenizer, TokenizerSource, Decoder, Sampler,
    SamplerOptions, SamplingDefaults, Rng, Chat, Answer<'static>, Generate<'static>, Piece, Prompt<'static>, Perplexity,
    PerplexityOptions, Score, TokenLogprob, Config, TensorInfo, GgufFile, GgufTensor, Template, Role, Message, Part, Isa, Dtype,
    Error, ErrorKind);

#[cfg(feature = "convert")]
are!(what_converts_is_shared_between_threads: Send, Sync, Debug;
    babyllama::convert::Source, babyllama::convert::GgufOptions, babyllama::convert::OutputFile,
    babyllama::convert::Recipe, babyllama::convert::Llama2c, babyllama::convert::gguf::Header);

#[cfg(feature = "grammar")]
are!(what_follows_a_grammar_is_sent_and_cloned: Send, Debug, Clone; babyllama::Grammar, babyllama::GrammarConstraint);

are!(errors_are_errors: StdError, Send, Sync, Display; Error);
are!(what_is_kept_can_be_copied: Clone;
    Model, ModelOptions, SessionOptions, Tokenizer, Decoder, Sampler, SamplerOptions, Rng, Piece, Config);
are!(options_are_compared: PartialEq, Clone; SamplerOptions, SamplingDefaults, SessionOptions, PerplexityOptions, Config, Message);
are!(small_values_are_keys: Copy, Eq, Hash;
    CacheDtype, ContextPolicy, Dtype, FinishReason, PieceKind, Role, Template, SessionOptions, PerplexityOptions);
are!(small_values_are_compared: Copy, PartialEq; Isa, RopeScaling, Score, TokenLogprob);
are!(what_a_command_line_names_is_read_and_shown: FromStr, Display; CacheDtype, Dtype, Isa, Role, Template);

#[test]
fn names_are_read_as_they_are_shown() {
    fn is_read<T: FromStr<Err = Error> + Display + PartialEq + Debug>(values: impl IntoIterator<Item = T>) {
        for value in values {
            assert_eq!(value.to_string().parse::<T>().unwrap(), value);
            assert_eq!(format!("{value:>20}").trim_start(), value.to_string(), "it is padded");
        }
        let error = "no such name".parse::<T>().unwrap_err().to_string();
        assert!(error.contains("no such name") && error.contains("must be one of"), "{error}");
    }
    is_read(CacheDtype::ALL.iter().copied());
    is_read(Isa::available());
    is_read(Dtype::ALL.iter().copied());
    is_read([Dtype::Int8 { group_size: 64 }]);
    #[cfg(feature = "convert")]
    is_read(babyllama::convert::Recipe::all());
    is_read(Role::ALL.iter().copied());
    is_read(Template::ALL.iter().copied());
    assert_eq!("mistral-v7-tekken".parse::<Template>().unwrap(), Template::MistralV7);
}

/// With the feature `serde`, what a program keeps in its settings is read as it was written.
#[cfg(all(feature = "convert", feature = "serde"))]
mod settings {
    use babyllama::convert::Recipe;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::*;

    fn json<T: Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap()
    }

    /// That a value is written so, and read again from that.
    #[track_caller]
    fn is_written_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: &str) {
        assert_eq!(json(value), text);
        assert_eq!(serde_json::from_str::<T>(text).unwrap(), *value);
    }

    #[test]
    fn what_has_a_name_is_written_by_it() {
        for template in Template::ALL {
            is_written_as(template, &format!("{:?}", template.name()));
        }
        for role in Role::ALL {
            is_written_as(role, &format!("{:?}", role.name()));
        }
        for dtype in Dtype::ALL {
            is_written_as(dtype, &format!("{:?}", dtype.to_string()));
        }
        is_written_as(&Dtype::Int8 { group_size: 64 }, r#""int8 (groups of 64)""#);
        for dtype in CacheDtype::ALL {
            is_written_as(dtype, &format!("{:?}", dtype.name()));
        }
        for isa in Isa::available() {
            is_written_as(&isa, &format!("{:?}", isa.name()));
        }
        for recipe in Recipe::all() {
            is_written_as(&recipe, &format!("{:?}", recipe.to_string()));
        }
        let error = serde_json::from_str::<CacheDtype>("\"f64\"").unwrap_err().to_string();
        assert!(error.contains("f64") && error.contains("must be one of f32, f16"), "{error}");
    }

    #[test]
    fn messages_are_role_and_content() {
        let messages = vec![Message::system("Be brief."), Message::user("\u{e9}\"\n")];
        let text = r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"é\"\n"}]"#;
        is_written_as(&messages, text);
    }

    #[test]
    fn options_are_read_as_they_were_written() {
        let bans = vec![(3, f32::NEG_INFINITY), (4, -1.1)];
        let sampling = SamplerOptions::new().temperature(0.3).top_k(40).logit_bias(bans).seed(u64::MAX);
        let sampling =
            sampling.temperature_last(true).dry_multiplier(0.8).dry_breakers(vec![vec![1], vec![2, 3]]);
        assert_eq!(serde_json::from_str::<SamplerOptions>(&json(&sampling)).unwrap(), sampling);
        is_written_as(
            &SessionOptions::new().context_length(4096).cache_dtype(CacheDtype::F16),
            r#"{"context_length":4096,"cache_dtype":"f16"}"#,
        );
        is_written_as(
            &PerplexityOptions::new().context_length(256).max_windows(3),
            r#"{"context_length":256,"max_windows":3,"cache_dtype":"f32"}"#,
        );

        is_written_as(&ContextPolicy::Refuse, r#""refuse""#);
        is_written_as(&ContextPolicy::DropOldest { reserve: 256 }, r#"{"drop_oldest":{"reserve":256}}"#);

        let options = ModelOptions::new().threads(2).norm_eps(1e-6).tokenizer_path("tokenizer.bin");
        let text = json(&options);
        let read: ModelOptions = serde_json::from_str(&text).unwrap();
        assert_eq!((read.threads, read.norm_eps, json(&read)), (Some(2), Some(1e-6), text));
        assert!(matches!(read.tokenizer, TokenizerSource::File(path) if path.as_os_str() == "tokenizer.bin"));
    }

    #[test]
    fn what_is_left_out_is_the_default_and_what_is_unknown_is_refused() {
        assert_eq!(serde_json::from_str::<SamplerOptions>("{}").unwrap(), SamplerOptions::new());
        let some: SamplerOptions = serde_json::from_str(r#"{"top_p":0.5}"#).unwrap();
        assert_eq!(some, SamplerOptions::new().top_p(0.5));
        for error in [
            serde_json::from_str::<SamplerOptions>(r#"{"topp":0.5}"#).map(drop).unwrap_err(),
            serde_json::from_str::<SessionOptions>(r#"{"topp":0.5}"#).map(drop).unwrap_err(),
            serde_json::from_str::<ModelOptions>(r#"{"topp":0.5}"#).map(drop).unwrap_err(),
        ] {
            assert!(error.to_string().contains("unknown field `topp`"), "{error}");
        }
    }

    #[test]
    fn a_tokenizer_that_was_given_is_not_written() {
        let mut file = 0_i32.to_le_bytes().to_vec();
        file.extend([0; 8]); // a piece without a text
        let tokenizer = Tokenizer::from_llama2c(&file).unwrap();
        let error = serde_json::to_string(&ModelOptions::new().tokenizer(tokenizer)).unwrap_err();
        assert!(error.to_string().contains("Given"), "{error}");
    }
}
