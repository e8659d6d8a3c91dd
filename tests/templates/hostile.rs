//! Templates that would take for ever, or all memory, or the stack.

use std::time::{Duration, Instant};

use babyllama::ErrorKind;
use babyllama::chat::{JinjaTemplate, Message, Variables};

use crate::tokenizer;

/// Templates that would take for ever, all memory or the stack.
fn hostile() -> Vec<String> {
    let deep = |body: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for j in range(99) %}}{{% for i in range(90000) %}}{body}\
             {{% endfor %}}{{% endfor %}}{{{{ ns.x }}}}"
        )
    };
    let many = |text: &str, n: usize| text.repeat(n);
    vec![
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_string(),
        "{% for i in range(10**12) %}{% endfor %}".into(),
        "{{ 'x' * 10**9 }}".into(),
        "{{ ('x' * 10**6 ~ 'y') * 10**6 }}".into(),
        "{{ [0] * 10**9 }}".into(),
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".into(),
        "{% macro f(x) %}{{ f([x, x, x, x, x, x, x, x]) }}{{ x }}{% endmacro %}{{ f([1, 2]) }}".into(),
        "{% set ns = namespace(x='aaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
            .into(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"
            .into(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
         {{ ns.x | tojson }}"
            .into(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".into(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}".into(),
        "{% set ns = namespace() %}{% set m = namespace(x=ns) %}{% set ns.x = m %}{{ ns }}".into(),
        deep("{% set ns.x = [ns.x] %}"),
        deep("{% set ns.x = {'a': ns.x} %}"),
        deep("{% set ns.x, ns.y = [ns.x], 1 %}"),
        deep("{% set ns.x = ns.x | batch(1) | list %}"),
        format!("{{{{ {}1 }}}}", many("-", 99999)),
        format!("{{{{ {}1 }}}}", many("not ", 99999)),
        format!("{{{{ {}1 }}}}", many("1 + ", 50000)),
        format!("{{{{ x{} }}}}", many(".a", 99999)),
        format!("{{{{ x{} }}}}", many("|trim", 50000)),
        format!("{{{{ {}{} }}}}", many("[", 99999), many("]", 99999)),
        format!("{}{}", many("{% if 1 %}", 20000), many("{% endif %}", 20000)),
        format!("{{% if 1 %}}{}{{% endif %}}", many("{% elif 1 %}", 20000)),
        format!("{}{}", many("{% for x in messages %}", 200), many("{% endfor %}", 200)),
        "{{ '{:>1000000000}'.format(1) }}".into(),
        "{{ '{:>{}}'.format(1, 1000000000) }}".into(),
        "{{ '%1000000000d' | format(1) }}".into(),
        "{{ '%*d' | format(1000000000, 1) }}".into(),
        "{{ 'a\nb' | indent(10**9) }}".into(),
        "{{ ('a' * 30000).replace('a', 'b' * 30000) }}".into(),
        "{% set x = 'x' * 9000000 %}{% for i in range(90000) %}{% set y = x.count('y') %}{% endfor %}".into(),
        "{% set x = 'x' * 9000000 %}{% for i in range(90000) %}{% if 'y' in x %}{% endif %}{% endfor %}".into(),
        "{% set x = 'x' * 9000000 %}{% for i in range(90000) %}{% if x | length > i %}{{ x }}{% endif %}{% endfor %}".into(),
        "{{ 9 ** 9 ** 9 }}".into(),
        "{{ range(100000) | batch(1) | list | tojson(indent=99) }}{{ range(100000) | slice(10**9) | list }}".into(),
        "{% include 'x' %}".into(),
        "{{ messages[0].content.nothing.at.all }}".into(),
        "{{ raise_exception('no') }}".into(),
    ]
}

#[test]
fn hostile_templates_end_with_an_error_soon() {
    let tokenizer = tokenizer(&["<|im_end|>"], &[]);
    for source in hostile() {
        let start = Instant::now();
        let shown: String = source.chars().take(60).collect();
        let error = JinjaTemplate::new(&source, &tokenizer)
            .and_then(|template| template.render(&[Message::user("a")], &Variables::new()))
            .map(|parts| format!("{parts:?}").len())
            .unwrap_err();
        let kind = error.kind();
        let is_typed = matches!(kind, ErrorKind::ChatTemplate { .. } | ErrorKind::ConversationRefused { .. });
        assert!(is_typed, "{shown}: {error}");
        assert!(start.elapsed() < Duration::from_secs(30), "{shown} took {:?}", start.elapsed());
        println!("{:?} {shown}: {error}", start.elapsed());
    }
}

#[test]
fn expressions_of_the_greatest_size_fit_a_threads_stack() {
    let tokenizer = tokenizer(&[], &[]);
    let run = move || {
        let many = |text: &str, n: usize| text.repeat(n);
        for source in [
            format!("{{{{ {}1 }}}}", many("-", 1490)),
            format!("{{{{ {}1 }}}}", many("not ", 490)),
            format!("{{{{ {}1 }}}}", many("1+", 740)),
            format!("{{{{ messages{} }}}}", many("|list", 240)),
            format!("{{{{ messages[0]{} }}}}", many(".a", 740)),
            format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 99)),
            format!("{}1{}", many("{% if 1 %}", 140), many("{% endif %}", 140)),
            format!(
                "{{% macro f(x) %}}{{{{ x }}}}{{{{ f({}x{}) }}}}{{% endmacro %}}{{{{ f(1) }}}}",
                many("[", 23),
                many("]", 23)
            ),
            format!("{}{{{{ x }}}}{{{{ x | tojson }}}}", many("{% set x = [[[[[[x]]]]]] %}", 500)),
        ] {
            let template = JinjaTemplate::new(&source, &tokenizer);
            drop(template.map(|it| it.render(&[Message::user("a")], &Variables::new()).map(drop)));
        }
    };
    // The standard library's for a thread.
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}
