//! Rows for the tests of what shows them.

use serde_json::json;
use taskflow_protocol::ListId;
use taskflow_protocol::model::{Label, List, Task};
use uuid::Uuid;

use super::replica::Rows;

/// The only user's id, and the inbox's.
pub const USER: Uuid = Uuid::from_u128(7);

/// A list whose rank is its name.
pub fn list(id: u128, name: &str) -> List {
    let list = json!({
        "id": Uuid::from_u128(id), "name": name, "rank": name, "created_at": 1, "updated_at": 1, "version": 1,
    });
    serde_json::from_value(list).expect("it is a list")
}

/// A label.
pub fn label(id: u128, name: &str) -> Label {
    let label = json!({ "id": Uuid::from_u128(id), "name": name, "version": 1 });
    serde_json::from_value(label).expect("it is a label")
}

/// An open task.
pub fn task(id: u128, list: u128, title: &str) -> Task {
    let task = json!({
        "id": Uuid::from_u128(id), "list": Uuid::from_u128(list), "title": title, "status": "todo", "priority": "none",
        "rank": "m", "created_at": 1, "created_by": USER, "updated_at": 1, "updated_by": USER, "version": 1,
    });
    serde_json::from_value(task).expect("it is a task")
}

/// Two lists, and the tasks in them.
pub fn rows(tasks: impl IntoIterator<Item = Task>) -> Rows {
    let lists = [list(7, "Inbox"), list(8, "Work")];
    Rows {
        lists: lists.into_iter().map(|list| (list.id, list)).collect(),
        tasks: tasks.into_iter().map(|task| (task.id, task)).collect(),
        ..Rows::default()
    }
}

/// The id with this number.
pub fn list_id(id: u128) -> ListId {
    ListId(Uuid::from_u128(id))
}
