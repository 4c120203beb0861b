//! Commands on lists. The inbox can only be given a colour.

use taskflow_protocol::message::{ListCreate, ListMove, ListPatch, Row};
use taskflow_protocol::model::ListFields;
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, ListId};

use super::super::row::List;
use super::{Draft, Judged, Refusal, refuse, value};

impl Draft<'_> {
    pub(super) fn list_create(&mut self, create: &ListCreate) -> Judged {
        if self.overlay.list(create.list).is_some() {
            return refuse(Code::IdTaken, "list");
        }
        let list = List {
            id: create.list,
            name: value::name(&create.name)?,
            color: create.color.as_deref().map(value::color).transpose()?,
            rank: self.list_rank(&create.place, None)?,
            archived: false,
            created_at: self.stamp.at,
            updated_at: self.stamp.at,
            deleted_at: None,
            version: 0,
        };
        self.overlay.put_list(list);
        Ok(())
    }

    pub(super) fn list_patch(&mut self, patch: &ListPatch, base: Option<Seq>) -> Judged {
        let mut list = self.list_to_change(patch.list, base)?;
        let ListFields {
            name,
            color,
            rank,
            archived,
            deleted_at,
        } = &patch.set;
        for (field, is_present, instead) in [
            ("rank", rank.is_some(), "list_move"),
            ("deleted_at", deleted_at.is_some(), "list_delete or list_restore"),
        ] {
            if is_present {
                return Err(Refusal::value(field, &format!("a patch cannot set it; use {instead}")));
            }
        }
        if let Some(name) = name {
            self.check_not_inbox(list.id, "name")?;
            list.name = value::name(name)?;
        }
        if let Some(color) = color {
            list.color = color.as_deref().map(value::color).transpose()?;
        }
        if let Some(archived) = archived {
            self.check_not_inbox(list.id, "archived")?;
            list.archived = *archived;
        }
        self.overlay.put_list(list);
        Ok(())
    }

    pub(super) fn list_move(&mut self, to: &ListMove, base: Option<Seq>) -> Judged {
        let mut list = self.list_to_change(to.list, base)?;
        self.check_not_inbox(list.id, "list")?;
        list.rank = self.list_rank(&to.place, Some(list.id))?;
        self.overlay.put_list(list);
        Ok(())
    }

    /// One change: the tasks stay as they are, and are not shown. What is in the bin already stays there since then.
    pub(super) fn list_delete(&mut self, id: ListId, base: Option<Seq>) -> Judged {
        let mut list = self.list_at_base(id, base)?;
        self.check_not_inbox(id, "list")?;
        list.deleted_at = list.deleted_at.or(Some(self.stamp.at));
        self.overlay.put_list(list);
        Ok(())
    }

    pub(super) fn list_restore(&mut self, id: ListId, base: Option<Seq>) -> Judged {
        let mut list = self.list_at_base(id, base)?;
        list.deleted_at = None;
        self.overlay.put_list(list);
        Ok(())
    }

    /// A copy of the row, in the bin or not.
    fn list_at_base(&self, id: ListId, base: Option<Seq>) -> Judged<List> {
        let Some(list) = self.overlay.list(id) else {
            return refuse(Code::RowNotFound, "list");
        };
        self.check_base(base, list.version, || Row::List(list.to_wire()))?;
        Ok(List::clone(list))
    }

    /// A copy of the row, which is not in the bin.
    fn list_to_change(&self, id: ListId, base: Option<Seq>) -> Judged<List> {
        let list = self.list_at_base(id, base)?;
        if list.is_deleted() {
            return refuse(Code::RowDeleted, "list");
        }
        Ok(list)
    }

    pub(super) fn check_not_inbox(&self, id: ListId, field: &str) -> Judged {
        if id == self.inbox() {
            return refuse(Code::InboxFixed, field);
        }
        Ok(())
    }
}
