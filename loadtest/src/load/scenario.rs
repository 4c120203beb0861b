//! The scenarios: what users do, how many there are and how often.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Something that a user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Makes a task, by WebSocket.
    Create,
    /// Makes a task, by REST.
    CreateByRest,
    /// Gives a task a title; makes one if there is none.
    Edit,
    /// Completes a task; makes one if there is none.
    Complete,
    /// Searches.
    Search,
    /// Looks at a page of tasks.
    Page,
    /// Drops a connection and comes back.
    Reconnect,
    /// Signs in with a password.
    SignIn,
}

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Connections that stay, and hardly a change
    Idle,
    /// One author, many screens of the same feed
    Fanout,
    /// Each user's changes to the user's own screens
    Push,
    /// Tasks made by WebSocket and by REST
    Writes,
    /// A mixed day: screens that follow, creates, edits, completes, searches, pages, reconnects
    Day,
    /// Everyone reconnects at once, with cursors, while others write
    Storm,
    /// Slow readers beside good ones
    Slow,
    /// Sign-ins beside pushes
    SignIn,
    /// A steady mix while you restart nodes
    Rolling,
    /// The day, for half an hour
    Soak,
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Users, where there are so many tokens.
    pub users: usize,
    /// Screens, of the users in turn.
    pub connections: usize,
    /// Acts a second, of all users together.
    pub rate: f64,
    /// How long.
    pub seconds: f64,
    /// What users do, and how often one of them is among all.
    pub mix: &'static [(Act, u32)],
    /// Seconds between two times that all connections are dropped.
    pub storm_every: Option<f64>,
    /// One of so many screens of each user is a slow reader.
    pub slow_of: Option<usize>,
}

/// What the others differ from.
const SHAPE: Shape = Shape {
    users: 100,
    connections: 300,
    rate: 50.0,
    seconds: 60.0,
    mix: &[(Act::Edit, 1)],
    storm_every: None,
    slow_of: None,
};

/// Of a hundred acts in a day. One in ten seconds of each user is a busy day: it is the rate that counts.
const DAY: Shape = Shape {
    connections: 200,
    rate: 10.0,
    mix: &[
        (Act::Create, 20),
        (Act::CreateByRest, 5),
        (Act::Edit, 30),
        (Act::Complete, 15),
        (Act::Search, 10),
        (Act::Page, 15),
        (Act::Reconnect, 5),
    ],
    ..SHAPE
};

impl Scenario {
    /// The table.
    pub fn shape(self) -> Shape {
        match self {
            Self::Idle => Shape {
                connections: 1_000,
                rate: 1.0,
                ..SHAPE
            },
            Self::Fanout => Shape {
                users: 1,
                connections: 60,
                rate: 10.0,
                ..SHAPE
            },
            Self::Push => SHAPE,
            Self::Writes => Shape {
                connections: 100,
                rate: 100.0,
                mix: &[(Act::Create, 1), (Act::CreateByRest, 1)],
                ..SHAPE
            },
            Self::Day => DAY,
            Self::Storm => Shape {
                connections: 1_000,
                rate: 20.0,
                mix: &[(Act::CreateByRest, 1)],
                storm_every: Some(20.0),
                ..SHAPE
            },
            Self::Slow => Shape {
                users: 50,
                connections: 250,
                slow_of: Some(5),
                ..SHAPE
            },
            Self::SignIn => Shape {
                connections: 100,
                mix: &[(Act::Edit, 4), (Act::SignIn, 1)],
                ..SHAPE
            },
            Self::Rolling => Shape {
                seconds: 300.0,
                mix: &[
                    (Act::Create, 2),
                    (Act::CreateByRest, 2),
                    (Act::Edit, 4),
                    (Act::Page, 1),
                    (Act::Search, 1),
                ],
                ..SHAPE
            },
            Self::Soak => Shape {
                seconds: 1_800.0,
                ..DAY
            },
        }
    }

    /// As it is typed.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The act that stands at a place of the mix, of as many places as its weights add up to.
pub fn act_at(mix: &[(Act, u32)], mut place: u32) -> Option<Act> {
    mix.iter().find_map(|(act, weight)| {
        if place < *weight {
            return Some(*act);
        }
        place -= weight;
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_act_has_as_many_places_as_its_weight() {
        let mix = [(Act::Create, 2), (Act::Page, 1)];
        let acts: Vec<_> = (0..4).map(|place| act_at(&mix, place)).collect();
        assert_eq!(acts, [Some(Act::Create), Some(Act::Create), Some(Act::Page), None]);
    }

    #[test]
    fn the_day_is_given_in_percent() {
        assert_eq!(DAY.mix.iter().map(|(_, weight)| weight).sum::<u32>(), 100);
    }
}
