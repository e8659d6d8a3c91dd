//! Stop strings in a text, whole or begun.

/// Where the first stop string begins, and its index.
pub(super) fn find_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    let found = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
    found.filter_map(|(i, stop)| text.find(stop.as_str()).map(|at| (at, i))).min()
}

/// The length of the longest suffix of `text` that is a prefix of some stop string.
pub(super) fn possible_stop(text: &str, stops: &[String]) -> usize {
    let longest = stops.iter().map(String::len).max().unwrap_or(0);
    let earliest = text.len().saturating_sub(longest);
    let ends = (earliest..text.len()).filter(|&at| text.is_char_boundary(at));
    let mut ends = ends.filter(|&at| stops.iter().any(|stop| stop.starts_with(&text[at..])));
    ends.next().map_or(0, |at| text.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_begin_a_stop_string_is_held() {
        let stops = ["###".to_string(), "</s>".to_string()];
        assert_eq!(possible_stop("a story ##", &stops), 2);
        assert_eq!(possible_stop("a story <", &stops), 1);
        assert_eq!(possible_stop("a story", &stops), 0);
        assert_eq!(possible_stop("é#", &stops), 1);
        assert_eq!(find_stop("x</s>###", &stops), Some((1, 1)));
        assert_eq!(find_stop("x</s", &stops), None);
        assert_eq!(find_stop("x", &[String::new()]), None);
    }
}
