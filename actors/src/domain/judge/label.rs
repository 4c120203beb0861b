//! Commands on labels.

use taskflow_protocol::message::{LabelCreate, LabelPatch, Row};
use taskflow_protocol::model::LabelFields;
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, LabelId};

use super::super::row::Label;
use super::{Draft, Judged, Refusal, refuse, value};

impl Draft<'_> {
    pub(super) fn label_create(&mut self, create: &LabelCreate) -> Judged {
        if self.overlay.label(create.label).is_some() {
            return refuse(Code::IdTaken, "label");
        }
        let label = Label {
            id: create.label,
            name: value::name(&create.name)?,
            color: create.color.as_deref().map(value::color).transpose()?,
            deleted_at: None,
            version: 0,
        };
        self.overlay.put_label(label);
        Ok(())
    }

    pub(super) fn label_patch(&mut self, patch: &LabelPatch, base: Option<Seq>) -> Judged {
        let mut label = self.label_at_base(patch.label, base)?;
        if label.is_deleted() {
            return refuse(Code::RowDeleted, "label");
        }
        let LabelFields {
            name,
            color,
            deleted_at,
        } = &patch.set;
        if deleted_at.is_some() {
            let why = "a patch cannot set it; use label_delete or label_restore";
            return Err(Refusal::value("deleted_at", why));
        }
        if let Some(name) = name {
            label.name = value::name(name)?;
        }
        if let Some(color) = color {
            label.color = color.as_deref().map(value::color).transpose()?;
        }
        self.overlay.put_label(label);
        Ok(())
    }

    /// One change: tasks keep naming the label, and clients hide it. What is in the bin already stays there since then.
    pub(super) fn label_delete(&mut self, id: LabelId, base: Option<Seq>) -> Judged {
        let mut label = self.label_at_base(id, base)?;
        label.deleted_at = label.deleted_at.or(Some(self.stamp.at));
        self.overlay.put_label(label);
        Ok(())
    }

    pub(super) fn label_restore(&mut self, id: LabelId, base: Option<Seq>) -> Judged {
        let mut label = self.label_at_base(id, base)?;
        label.deleted_at = None;
        self.overlay.put_label(label);
        Ok(())
    }

    /// A copy of the row, in the bin or not.
    fn label_at_base(&self, id: LabelId, base: Option<Seq>) -> Judged<Label> {
        let Some(label) = self.overlay.label(id) else {
            return refuse(Code::RowNotFound, "label");
        };
        self.check_base(base, label.version, || Row::Label(label.to_wire()))?;
        Ok(Label::clone(label))
    }
}
