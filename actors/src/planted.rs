//! Deliberate bugs, each a switch inside the code that it breaks. Without the feature `simulation` none can be turned on,
//! and the compiler leaves nothing of them. The simulation must find each of them (`make sim-planted`).

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $variant:ident,)+) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// What it does.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

bugs! {
    /// The author is answered before the append is durable.
    AnswerBeforeDurable,
    /// Entries are pushed before the append is durable.
    PublishBeforeAppend,
    /// An append that found another head is taken for done.
    NoConditionOnHead,
    /// A start forgets which operations were done.
    IdsForgottenAtStart,
    /// A start does not replay the entries after the rows.
    NoReplayAtStart,
    /// The last entry of a commit of several is left out of the log.
    LastOfBatchDropped,
    /// A read-back that failed is taken for "not found".
    FailedReadBackIsNotFound,
    /// A refusal leaves without a look at the head.
    RefusalOnStaleHead,
    /// The refusal of a repeat is not kept.
    RepeatRefusalForgotten,
    /// After a repeat, the refusal of the first copy counts.
    FirstRefusalCounts,
    /// What was sent and not answered in time is refused.
    UnknownIsRefused,
    /// Operations go to the new host while earlier ones wait at the old one.
    Overtaking,
    /// A second request takes operations of a connection that has others in the first.
    OvertakenBySecond,
    /// Rows are said to go further than they do.
    RowsUptoOverHole,
    /// A publication after a hole is sent all the same.
    HoleIgnored,
    /// A follower is live before the log has been read to its end.
    LiveTooEarly,
    /// What was kept for a follower is sent though something before it is missing.
    KeptOverHole,
    /// What is published while a follower's log is being read is forgotten when the read finds nothing.
    NotedIsForgotten,
    /// A follower whose node's queue was full goes on as if nothing had been lost.
    LostIsForgotten,
    /// Followed feeds are never compared with the log.
    LastMessageNeverMissed,
    /// A feed that comes into doubt while its head is being read is not read again.
    DoubtForgotten,
    /// What was published before a subscription that came late is not looked for.
    LateSubscriptionTrusted,
    /// What an old host may not have published is not looked for.
    MovedFeedTrusted,
    /// A request that the broker doubled is judged twice.
    DoubledIsNew,
    /// An append of which nobody knows whether it was done is refused when the wait is over.
    SilentIsRefused,
    /// What was lost while no messages came through is not looked for.
    LossForgotten,
    /// A look at the memory is answered without a look at the head.
    StaleLook,
    /// Nobody is told that the log cannot be read while no messages come through.
    StaleUntold,
    /// Once messages come through again nobody is told that what was lost before cannot be read.
    BackIsTrusted,
    /// What others appended is taken in without its operation ids.
    IdsOfOthersForgotten,
    /// What was done is counted again when it is replayed.
    CountedTwice,
    /// An operation whose fingerprint is that of another is taken for it.
    CollisionIsRepeat,
    /// Of the entries that may be of an operation, only one is looked at.
    FirstPlaceCounts,
    /// An entry that could not be read is taken for one that is no longer kept.
    UnreadIsGone,
}

#[cfg(feature = "simulation")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Turns a bug on in this thread, or all off.
#[cfg(feature = "simulation")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether the bug is turned on.
#[inline]
pub fn is_planted(bug: Bug) -> bool {
    #[cfg(feature = "simulation")]
    return PLANTED.get() == Some(bug);
    #[cfg(not(feature = "simulation"))]
    {
        let _ = bug;
        false
    }
}
