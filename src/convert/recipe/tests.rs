//! Recipes against llama.cpp's choices.

use super::*;
use crate::arch::TensorId;

/// What llama.cpp chose, which `tests/golden/recipes.py` wrote.
const GOLDEN: &str = include_str!("../../../tests/golden/recipes.txt");

/// Name, `dim`, `hidden_dim`, `n_layers`, heads for each head of keys and values, and whether the
/// output is tied. `SHAPES` in that script must be equal to this table.
const SHAPES: [(&str, usize, usize, usize, usize, bool); 11] = [
    ("gqa_22", 256, 512, 22, 4, false),
    ("mha_32", 256, 256, 32, 1, false),
    ("gqa_80", 256, 256, 80, 8, false),
    ("mha_80", 256, 256, 80, 1, false),
    ("gqa_5", 256, 512, 5, 2, false),
    ("gqa8_24", 256, 512, 24, 8, false),
    ("tied_9", 256, 512, 9, 2, true),
    ("tied_576", 576, 1536, 30, 3, true),
    ("mha_288", 288, 768, 6, 1, false),
    ("gqa_64", 64, 96, 10, 2, false),
    ("mha_48", 48, 80, 3, 1, false),
];

/// Every matrix of a model, and its width.
fn matrices(config: &Config, tied: bool) -> impl Iterator<Item = (TensorId, usize)> {
    let tensors = TensorId::all(config).filter(move |id| !(tied && id.kind.is_output()));
    tensors.filter_map(|id| if let [_, columns] = *id.shape(config) { Some((id, columns)) } else { None })
}

/// What a line says of a matrix: the type of most of them, or another that is listed for it.
fn expected<'a>(most: &'a str, others: &[&'a str], gguf_name: &str) -> &'a str {
    let name = gguf_name.strip_suffix(".weight").unwrap();
    let (layer, matrix) = match name.strip_prefix("blk.") {
        Some(rest) => rest.split_once('.').unwrap(),
        None => ("", name),
    };
    let mut listed = others.iter().filter_map(|other| {
        let (of, kind) = other.split_once('=').unwrap();
        let (kind, layers) = kind.split_once('@').unwrap_or((kind, ""));
        (of == matrix && layers.split(',').any(|l| l == layer)).then_some(kind)
    });
    listed.next().unwrap_or(most)
}

#[test]
fn recipes_choose_what_llama_cpp_chooses() {
    let mut lines = GOLDEN.lines();
    for (model, dim, hidden_dim, n_layers, heads_per_kv_head, tied) in SHAPES {
        let config = Config::new(dim, hidden_dim, n_layers, heads_per_kv_head, 1, 1, 1);
        let recipes = || Recipe::all().filter(|&recipe| recipe != Recipe::Mxfp4);
        for (recipe, has_importance) in recipes().flat_map(|recipe| [(recipe, false), (recipe, true)]) {
            let traits = Traits { n_layers, heads_per_kv_head, tied, has_importance };
            let line: Vec<_> = lines.next().unwrap().split(' ').collect();
            let [of, name, importance, file_type, most, others @ ..] = &*line else { panic!("{line:?}") };
            assert_eq!(
                (*of, *name, *importance == "by_importance", *file_type),
                (model, &*recipe.to_string(), has_importance, &*recipe.file_type().unwrap().to_string())
            );
            for (matrix, columns) in matrices(&config, tied) {
                let found = recipe.dtype(&matrix.to_string(), columns, &traits).to_string();
                let expected = expected(most, others, &matrix.gguf());
                assert_eq!(
                    found.to_ascii_uppercase(),
                    expected,
                    "{model} as {recipe}, {importance}: {matrix}"
                );
            }
        }
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn a_recipe_has_a_name_in_either_case_and_the_medium_ones_a_short_one() {
    for recipe in Recipe::all() {
        assert_eq!(recipe.to_string().parse::<Recipe>().unwrap(), recipe);
        assert_eq!(recipe.to_string().to_ascii_lowercase().parse::<Recipe>().unwrap(), recipe);
    }
    assert_eq!("q4_k".parse::<Recipe>().unwrap(), Recipe::Q4KM);
    assert_eq!("q6_k".parse::<Recipe>().unwrap(), Recipe::Q6K);
    let error = "q9".parse::<Recipe>().unwrap_err().to_string();
    assert!(error.starts_with("option recipe = q9: must be one of f32, f16, "), "{error}");
}
