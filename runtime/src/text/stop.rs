//! Stop strings: text that ends an answer and is not part of it.

use crate::RuntimeError;

/// Finds stop strings in streamed text. Text is held back while it may be the beginning of a stop string. The match that
/// ends first counts, regardless of how the text is split; of matches that end at the same place, the longest.
///
/// ```
/// use jamba_runtime::StopStrings;
///
/// let mut stops = StopStrings::new(vec!["\nUser:".to_owned()])?;
/// assert_eq!(stops.push("Yes.\nUs"), "Yes."); // `\nUs` may become `\nUser:`
/// assert_eq!(stops.push("ing"), "\nUsing"); // it did not
/// assert_eq!(stops.push("\nUser: and"), "");
/// assert!(stops.is_stopped());
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
    keeps_match: bool,
}

impl StopStrings {
    /// A search for `stops`. Fails if one of them is empty.
    pub fn new(stops: Vec<String>) -> Result<StopStrings, RuntimeError> {
        if stops.iter().any(String::is_empty) {
            return Err(RuntimeError::Option { name: "stop", found: "\"\"".to_owned(), expected: "a nonempty string" });
        }
        Ok(StopStrings { stops, ..StopStrings::default() })
    }

    /// Makes the stop string that is found the end of the text.
    pub fn keep_match(mut self) -> StopStrings {
        self.keeps_match = true;
        self
    }

    /// Appends text and returns the text that cannot be part of a stop string. Returns an empty string after a match.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        if let Some((end, begin)) = self.find() {
            self.stopped = true;
            self.held.truncate(if self.keeps_match { end } else { begin });
            return std::mem::take(&mut self.held);
        }
        let rest = self.held.split_off(self.held.len() - self.beginning());
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns the held back text at the end of the stream.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// True if a stop string was found.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// End and start of the match that ends first.
    fn find(&self) -> Option<(usize, usize)> {
        let stops = self.stops.iter().filter(|stop| stop.len() <= self.held.len());
        stops.filter_map(|stop| self.held.find(stop).map(|begin| (begin + stop.len(), begin))).min()
    }

    /// Length in bytes of the longest suffix of the held text that is a prefix of a stop string.
    fn beginning(&self) -> usize {
        let longest = |stop: &String| {
            let mut ends = self.held.char_indices().map(|(begin, _)| &self.held[begin..]);
            ends.find(|end| end.len() < stop.len() && stop.starts_with(end)).map_or(0, str::len)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn filtered(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut filter = StopStrings::new(stops.iter().map(|&stop| stop.to_owned()).collect()).unwrap();
        let mut text: String = pieces.iter().map(|piece| filter.push(piece)).collect();
        text += &filter.finish();
        (text, filter.is_stopped())
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_never_told() {
        assert_eq!(filtered(&["END"], &["a E", "N", "D b"]), ("a ".to_owned(), true));
        assert_eq!(filtered(&["END"], &["a EN"]), ("a EN".to_owned(), false));
        assert_eq!(filtered(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
        assert_eq!(filtered(&["ü!"], &["xü", "ü!"]), ("xü".to_owned(), true));
        assert_eq!(filtered(&[], &["a", "b"]), ("ab".to_owned(), false));
        // The match that ends first; of several, the longest.
        assert_eq!(filtered(&["xabc", "ab"], &["xabc"]), ("x".to_owned(), true));
        assert_eq!(filtered(&["b", "ab"], &["xab"]), ("x".to_owned(), true));
    }

    #[test]
    fn no_more_is_held_back_than_could_be_a_stop_string() {
        let mut filter = StopStrings::new(vec!["abc".to_owned(), "bd".to_owned()]).unwrap();
        assert_eq!([filter.push("xab"), filter.push("x"), filter.push("b"), filter.push("y")], ["x", "abx", "", "by"]);
    }

    #[test]
    fn a_match_can_be_kept() {
        let mut filter = StopStrings::new(vec!["END".to_owned()]).unwrap().keep_match();
        assert_eq!([filter.push("a E"), filter.push("NDb"), filter.push("c")], ["a ", "END", ""]);
        assert!(filter.is_stopped() && filter.finish().is_empty());
    }

    #[test]
    fn an_empty_one_is_refused() {
        assert!(StopStrings::new(vec![String::new()]).unwrap_err().to_string().contains("stop"));
    }

    proptest! {
        /// Compared with the definition: the text before the match that ends first.
        #[test]
        fn pieces_make_no_difference(text in "[ab]{0,24}", stops in vec("[ab]{1,4}", 0..4), cuts in vec(0usize..24, 0..6)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let longest = |text: &str| stops.iter().filter(|&&stop| text.ends_with(stop)).map(|stop| stop.len()).max();
            let first = (0..=text.len()).find_map(|end| longest(&text[..end]).map(|length| end - length));
            let expected = (text[..first.unwrap_or(text.len())].to_owned(), first.is_some());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(filtered(&stops, &pieces), expected);
        }
    }
}
