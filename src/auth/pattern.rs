//! Regular expressions that administrators write, searched for in names and keys.
//!
//! They are bounded in size and in time. Most run in linear time; those that look around (`^(?!amq\.).*`) or refer back,
//! as RabbitMQ's may, are tried so many steps far: one that takes longer does not match.

use thiserror::Error;

/// The most bytes one compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// The longest expression that is compiled at all.
const PATTERN_BYTES_MAX: usize = 4096;
/// How often an expression that is not linear may turn back.
const BACKTRACKS_MAX: usize = 100;
/// What trying one is counted as, in steps of others' turns.
const BACKTRACKING_STEPS: u32 = 50;

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PatternError(String);

/// An expression.
#[derive(Clone, Debug)]
pub struct Pattern(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Linear(regex::Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// It is none, or exceeds the bounds: why, in one line.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(PatternError(format!("longer than {PATTERN_BYTES_MAX} bytes")));
        }
        let linear = regex::RegexBuilder::new(pattern)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .build();
        let error = match linear {
            Ok(linear) => return Ok(Self(Kind::Linear(linear))),
            Err(error) => error,
        };
        let backtracking = fancy_regex::RegexBuilder::new(pattern)
            .delegate_size_limit(COMPILED_BYTES_MAX)
            .delegate_dfa_size_limit(COMPILED_BYTES_MAX)
            .backtrack_limit(BACKTRACKS_MAX)
            .build();
        backtracking.map(|regex| Self(Kind::Backtracking(Box::new(regex)))).map_err(|_| {
            // The parser draws its errors over several lines; the last one says it.
            let text = error.to_string();
            let line = text.lines().next_back().unwrap_or_default();
            PatternError(line.trim_start_matches("error: ").to_owned())
        })
    }

    /// How many steps a try is, at most.
    pub fn steps(&self) -> u32 {
        match &self.0 {
            Kind::Linear(_) => 1,
            Kind::Backtracking(_) => BACKTRACKING_STEPS,
        }
    }

    /// Whether it is found in this text.
    pub fn is_match(&self, text: &str) -> bool {
        match &self.0 {
            Kind::Linear(regex) => regex.is_match(text),
            Kind::Backtracking(regex) => regex.is_match(text).unwrap_or(false),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Kind::Linear(regex) => regex.as_str(),
            Kind::Backtracking(regex) => regex.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn expressions_may_look_around() {
        let not_ours = Pattern::new("^(?!amq\\.|other).*").unwrap();
        assert!(not_ours.is_match("q") && !not_ours.is_match("amq.gen-1") && !not_ours.is_match("other.q"));
        assert_eq!(not_ours.as_str(), "^(?!amq\\.|other).*");
        assert!(Pattern::new("(?<=a)b").unwrap().is_match("ab"));
        assert!(Pattern::new("^(.)\\1$").unwrap().is_match("xx"));
    }

    #[test]
    fn what_takes_too_long_does_not_match() {
        let slow = Pattern::new("^(?=(a+)+$)(?!b)").unwrap();
        assert!(!slow.is_match(&format!("{}b", "a".repeat(200))));
        let slow = Pattern::new("(?!b)(x+x+)+y").unwrap();
        assert!(!slow.is_match(&"x".repeat(200)));
    }

    #[test]
    fn what_may_turn_back_is_more_than_a_step() {
        let steps = |pattern| Pattern::new(pattern).unwrap().steps();
        assert_eq!(steps("^a.*b$"), 1);
        assert!(steps("^(?!amq\\.).*") > 1);
    }

    #[test]
    fn bounds_and_errors() {
        for wrong in ["(", "(?!", "(?<=a)(", "((a{1000}){1000}){1000}", "(?!x)((a{1000}){1000}){1000}"] {
            assert!(!Pattern::new(wrong).unwrap_err().to_string().contains('\n'), "{wrong}");
        }
        assert!(Pattern::new(&"(?!".repeat(1000)).is_err());
        assert!(Pattern::new(&"a".repeat(5_000)).is_err());
    }
}
