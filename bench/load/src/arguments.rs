//! The command line: words in order, and options with a value.

use std::collections::VecDeque;

pub struct Arguments {
    words: VecDeque<String>,
    options: Vec<(String, String)>,
}

impl Arguments {
    pub fn of(given: impl Iterator<Item = String>) -> Self {
        let (mut words, mut options) = (VecDeque::new(), Vec::new());
        let mut given = given;
        while let Some(word) = given.next() {
            match word.strip_prefix("--") {
                Some(name) => options.push((name.to_owned(), given.next().unwrap_or_default())),
                None => words.push_back(word),
            }
        }
        Self { words, options }
    }

    /// The next word, or `default`.
    pub fn next(&mut self, default: &str) -> String {
        self.words.pop_front().unwrap_or_else(|| default.to_owned())
    }

    /// The words that are left.
    pub fn rest(&mut self) -> Vec<String> {
        self.words.drain(..).collect()
    }

    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.all(name).last().map_or(default, |value| value.parse().expect("a number"))
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.options.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }
}
