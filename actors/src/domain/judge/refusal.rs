//! Why an operation is not done.

use taskflow_protocol::Code;
use taskflow_protocol::message::{Conflict, ErrorBody, Outcome, Row};

/// Why an operation is not done. It changed nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// A rule says no.
    Code {
        /// Which rule.
        code: Code,
        /// The field or id of the command that is wrong, as a path.
        field: Option<String>,
        /// What is particular to this case, as the beginning of a sentence.
        detail: Option<String>,
    },
    /// The row is no longer at the base version; this is the present row.
    Conflict(Box<Row>),
}

impl Refusal {
    pub(in crate::domain) fn new(code: Code) -> Self {
        Self::Code {
            code,
            field: None,
            detail: None,
        }
    }

    pub(in crate::domain) fn field(self, name: impl Into<String>) -> Self {
        match self {
            Self::Code { code, detail, .. } => Self::Code {
                code,
                field: Some(name.into()),
                detail,
            },
            conflict @ Self::Conflict(_) => conflict,
        }
    }

    pub(in crate::domain) fn because(self, why: impl Into<String>) -> Self {
        match self {
            Self::Code { code, field, .. } => Self::Code {
                code,
                field,
                detail: Some(why.into()),
            },
            conflict @ Self::Conflict(_) => conflict,
        }
    }

    /// `value_invalid`, with what is wrong about the field.
    pub(in crate::domain) fn value(field: &str, why: &str) -> Self {
        Self::new(Code::ValueInvalid).field(field).because(why)
    }

    /// Says which command of a batch it was.
    pub(super) fn in_command(self, index: usize) -> Self {
        match &self {
            Self::Code { field: Some(field), .. } => {
                let path = format!("commands[{index}].{field}");
                self.field(path)
            }
            _ => self.field(format!("commands[{index}]")),
        }
    }

    /// As the client is answered.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Conflict(row) => Outcome::Conflict(Conflict { row: *row }),
            Self::Code { code, field, detail } => {
                let mut body = ErrorBody::new(code);
                if let Some(detail) = detail {
                    body = body.because(detail);
                }
                body.field = field;
                Outcome::Refused(body)
            }
        }
    }
}

/// `Err` with a code and the field that is wrong.
pub(super) fn refuse<T>(code: Code, field: &str) -> Result<T, Refusal> {
    Err(Refusal::new(code).field(field))
}
