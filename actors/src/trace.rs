//! Requests that are traced: what names one on its way from step to step, and the steps.
//!
//! A [`TraceContext`] is a plain value that goes along with what is asked. Whoever does something of its own for a request
//! that has one asks the [`crate::ports::Tracer`] for a [`Span`], and ends it. A request without one costs a look at an
//! `Option`.

use std::borrow::Cow;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use taskflow_protocol::message::{OperationResult, Outcome};

/// A step of a request that is traced, for what happens because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// The request, from whoever began it up to here; never 0.
    #[serde(rename = "t")]
    pub trace: u128,
    /// The step; never 0.
    #[serde(rename = "s")]
    pub span: u64,
}

impl TraceContext {
    /// Reads a `traceparent` (W3C Trace Context, section 3.2), and whether it says that the request is traced. What is not
    /// valid is as if it were not there.
    pub fn parse(text: &str) -> Option<(Self, bool)> {
        let bytes = text.as_bytes();
        let (fields, rest) = bytes.split_first_chunk::<55>()?;
        let version = number(&fields[..2])?;
        // Later versions may have more behind it.
        let is_whole = rest.is_empty() || version > 0 && rest[0] == b'-';
        if version == 0xff || !is_whole || [2, 35, 52].iter().any(|at| fields[*at] != b'-') {
            return None;
        }
        let context = Self {
            trace: number(&fields[3..35])?,
            span: number(&fields[36..52])? as u64,
        };
        let is_sampled = number(&fields[53..55])? & 1 == 1;
        (context.trace != 0 && context.span != 0).then_some((context, is_sampled))
    }
}

/// Hexadecimal digits, in lower case only.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Which end of what a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Neither.
    Internal,
    /// Somebody else asked for it.
    Server,
    /// It waits for somebody else.
    Client,
}

/// What is known of a step. Never what users write, nor who they are but for the id that is in the log, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// So many.
    Number(i64),
    /// One of a few words, or an id.
    Text(Cow<'static, str>),
}

impl From<usize> for Fact {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u64> for Fact {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<&'static str> for Fact {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Span {
    /// What is under it carries this.
    pub context: TraceContext,
    /// The step that it is under; `None`: the trace begins with it.
    pub parent: Option<u64>,
    /// One of a few.
    pub name: Cow<'static, str>,
    /// Which end of what.
    pub kind: SpanKind,
    /// When it began.
    pub began: Instant,
    /// What is known of it.
    pub facts: Vec<(&'static str, Fact)>,
    /// What happened meanwhile.
    pub events: Vec<(&'static str, Instant)>,
    /// It did not do what it was for, and nobody is to blame who asked for it.
    pub is_failed: bool,
}

impl Span {
    /// Says more of it.
    pub fn fact(&mut self, name: &'static str, fact: impl Into<Fact>) {
        self.facts.push((name, fact.into()));
    }

    /// Something happened now.
    pub fn event(&mut self, name: &'static str) {
        self.events.push((name, Instant::now()));
    }

    /// What became of the operations: how many there are, the entry of the last one, or the first that was not accepted.
    pub fn settle(&mut self, results: &[OperationResult]) {
        self.fact("taskflow.operations", results.len());
        let mut outcome = "accepted";
        for result in results {
            let (word, code) = match &result.outcome {
                Outcome::Accepted(_) => continue,
                Outcome::Refused(error) => ("refused", Some(error.code)),
                Outcome::Unknown(error) => ("unknown", Some(error.code)),
                Outcome::Conflict(_) => ("conflict", None),
            };
            outcome = word;
            self.is_failed = word == "unknown";
            if let Some(code) = code {
                self.fact("taskflow.code", code.name());
            }
            break;
        }
        self.fact("taskflow.outcome", outcome);
        if let Some(Outcome::Accepted(accepted)) = results.last().map(|result| &result.outcome) {
            self.fact("feed.seq", accepted.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let context = TraceContext {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
        };
        let read = |text: String| TraceContext::parse(&text);
        assert_eq!(read(format!("00-{TRACE}-00f067aa0ba902b7-01")), Some((context, true)));
        assert_eq!(read(format!("00-{TRACE}-00f067aa0ba902b7-00")), Some((context, false)));
        // Other flags say nothing to us.
        assert_eq!(read(format!("00-{TRACE}-00f067aa0ba902b7-fe")), Some((context, false)));
        // A later version is read as far as it is this one.
        assert_eq!(read(format!("cc-{TRACE}-00f067aa0ba902b7-01")), Some((context, true)));
        assert_eq!(
            read(format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-has")),
            Some((context, true))
        );
    }

    #[test]
    fn what_is_no_traceparent_is_as_if_it_were_not_there() {
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-0"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7-012"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01.more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("0G-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-00F067AA0BA902B7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-0A"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}_00f067aa0ba902b7_01"),
            format!("00-{TRACE}0-0f067aa0ba902b7-01"),
            format!(" 00-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "é".repeat(16)),
            "x".repeat(100_000),
        ] {
            assert_eq!(TraceContext::parse(&wrong), None, "{wrong}");
        }
    }
}
