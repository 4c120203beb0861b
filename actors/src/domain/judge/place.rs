//! Where a row goes among its neighbours.
//!
//! Rows in the bin keep their ranks and count as neighbours, so that a row that comes out of the bin is where it was.

use std::ops::Bound;

use taskflow_protocol::limits::RANK_BYTES_MAX;
use taskflow_protocol::message::Place;
use taskflow_protocol::{Code, ListId, TaskId};
use uuid::Uuid;

use super::super::rank;
use super::super::state::Order;
use super::{Draft, Judged, Refusal, refuse};

/// The ids of rows that are ordered.
trait OrderedId: Copy + Ord {
    const MIN: Self;
    const MAX: Self;
}

impl OrderedId for TaskId {
    const MIN: Self = Self(Uuid::nil());
    const MAX: Self = Self(Uuid::max());
}

impl OrderedId for ListId {
    const MIN: Self = Self(Uuid::nil());
    const MAX: Self = Self(Uuid::max());
}

/// The greatest rank below this one (`None`: the greatest of all) among the rows that count.
fn below<'o, Id: OrderedId>(
    order: Option<&'o Order<Id>>,
    rank: Option<&str>,
    counts: impl Fn(Id) -> bool,
) -> Option<&'o str> {
    let end = rank.map_or(Bound::Unbounded, |rank| Bound::Excluded((rank.to_owned(), Id::MIN)));
    let mut found = order?.range((Bound::Unbounded, end)).rev();
    found.find(|(_, id)| counts(*id)).map(|(rank, _)| rank.as_str())
}

/// The least rank above this one (`None`: the least of all) among the rows that count.
fn above<'o, Id: OrderedId>(
    order: Option<&'o Order<Id>>,
    rank: Option<&str>,
    counts: impl Fn(Id) -> bool,
) -> Option<&'o str> {
    let start = rank.map_or(Bound::Unbounded, |rank| Bound::Excluded((rank.to_owned(), Id::MAX)));
    let mut found = order?.range((start, Bound::Unbounded));
    found.find(|(_, id)| counts(*id)).map(|(rank, _)| rank.as_str())
}

/// Rows in the order of the state and, in their stead where they are in it, those that the draft touched.
struct Neighbours<'o, Id> {
    untouched: Option<&'o Order<Id>>,
    touched: Option<&'o Order<Id>>,
    is_touched: Box<dyn Fn(Id) -> bool + 'o>,
    /// The row that is placed: not its own neighbour.
    placed: Option<Id>,
}

impl<Id: OrderedId> Neighbours<'_, Id> {
    fn below(&self, rank: Option<&str>) -> Option<&str> {
        let untouched = below(self.untouched, rank, |id| {
            !(self.is_touched)(id) && Some(id) != self.placed
        });
        let touched = below(self.touched, rank, |id| Some(id) != self.placed);
        untouched.max(touched)
    }

    fn above(&self, rank: Option<&str>) -> Option<&str> {
        let untouched = above(self.untouched, rank, |id| {
            !(self.is_touched)(id) && Some(id) != self.placed
        });
        let touched = above(self.touched, rank, |id| Some(id) != self.placed);
        // `None` is the end, not the least.
        match (untouched, touched) {
            (Some(untouched), Some(touched)) => Some(untouched.min(touched)),
            (untouched, touched) => untouched.or(touched),
        }
    }

    /// The rank for a place; `beside` is the rank of the row that the place names. A row that is there already keeps its
    /// present rank. Between equal ranks there is no room: then the place is before or after all of them.
    fn rank(&self, place: &Place<&str>, present: Option<&str>) -> Judged<String> {
        let (low, high) = match *place {
            Place::First => (None, self.above(None)),
            Place::Last => (self.below(None), None),
            Place::Before(beside) => (self.below(Some(beside)), Some(beside)),
            Place::After(beside) => (Some(beside), self.above(Some(beside))),
        };
        if let Some(present) = present
            && low.is_none_or(|low| low < present)
            && high.is_none_or(|high| present < high)
        {
            return Ok(present.to_owned());
        }
        let rank = rank::between(low, high);
        if rank.len() > RANK_BYTES_MAX {
            let why = "there is no more room between these neighbours; move one of them first";
            return Err(Refusal::new(Code::LimitReached).field("place").because(why));
        }
        Ok(rank)
    }
}

impl Draft<'_> {
    /// The rank of a task for a place in a list; `task` is the one that is moved, where there is one already.
    pub(super) fn task_rank(&self, place: &Place<TaskId>, list: ListId, task: Option<TaskId>) -> Judged<String> {
        let rows = self.overlay.touched_rows();
        let neighbours = Neighbours {
            untouched: self.overlay.state().rows().task_order.get(&list),
            touched: rows.task_order.get(&list),
            is_touched: Box::new(|id| rows.tasks.contains_key(&id)),
            placed: task,
        };
        let present = task
            .and_then(|task| self.overlay.task(task))
            .filter(|present| present.list == list)
            .map(|present| present.rank.as_str());
        let beside = |id: TaskId| {
            if Some(id) == task {
                return Err(Refusal::value("place", "a row has no place beside itself"));
            }
            match self.overlay.task(id) {
                None => refuse(Code::RowNotFound, "place"),
                Some(beside) if beside.list != list => Err(Refusal::value(
                    "place",
                    "the row that the place names is in another list",
                )),
                Some(beside) => Ok(beside.rank.as_str()),
            }
        };
        neighbours.rank(&name(place, beside)?, present)
    }

    /// The rank of a list for a place; `list` is the one that is moved, where there is one already.
    pub(super) fn list_rank(&self, place: &Place<ListId>, list: Option<ListId>) -> Judged<String> {
        let rows = self.overlay.touched_rows();
        let neighbours = Neighbours {
            untouched: Some(&self.overlay.state().rows().list_order),
            touched: Some(&rows.list_order),
            is_touched: Box::new(|id| rows.lists.contains_key(&id)),
            placed: list,
        };
        let present = list.and_then(|list| self.overlay.list(list));
        let beside = |id: ListId| {
            if Some(id) == list {
                return Err(Refusal::value("place", "a row has no place beside itself"));
            }
            match self.overlay.list(id) {
                None => refuse(Code::RowNotFound, "place"),
                Some(beside) => Ok(beside.rank.as_str()),
            }
        };
        neighbours.rank(&name(place, beside)?, present.map(|present| present.rank.as_str()))
    }
}

/// The place, with the rank of the row that it names.
fn name<'r, Id: Copy>(place: &Place<Id>, rank: impl Fn(Id) -> Judged<&'r str>) -> Judged<Place<&'r str>> {
    Ok(match place {
        Place::First => Place::First,
        Place::Last => Place::Last,
        Place::Before(id) => Place::Before(rank(*id)?),
        Place::After(id) => Place::After(rank(*id)?),
    })
}
