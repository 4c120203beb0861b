//! One connection to Redis, of whatever kind, over which everything goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::Slot;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, PushInfo, PushKind, RedisError,
    RedisResult, Value,
};
use taskflow_actors::ports::NodeId;

use super::{Mode, Options};

/// Takes what comes in.
pub(super) type Incoming = Arc<dyn Fn(Came<'_>) + Send + Sync>;

/// What comes in.
pub(super) enum Came<'a> {
    /// What was published, on this channel.
    Message(&'a [u8], Bytes),
    /// Nothing more comes on this channel: it was unsubscribed, or its slot is with another node of the cluster now.
    Ended(&'a [u8]),
    /// The connection is gone.
    Gone,
}

/// Writes this node's record with the broker's time in front, drops old ones, and returns the time and all of them.
/// Numbers are written as eight bytes, most significant first.
const BEAT: &str = r"
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], struct.pack('>i8', ms) .. ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
local kept = {}
for i = 1, #all, 2 do
    if ms - struct.unpack('>i8', all[i + 1]) > tonumber(ARGV[3]) then
        redis.call('HDEL', KEYS[1], all[i])
    else
        kept[#kept + 1] = all[i]
        kept[#kept + 1] = all[i + 1]
    end
end
return {now[1], now[2], kept}
";

/// Records of nodes: their ids as text, and what they said.
pub(super) type Records = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) enum Link {
    /// To one server.
    One(MultiplexedConnection),
    /// To the server that the sentinels name; its address.
    Named(MultiplexedConnection, String),
    /// To all nodes of a cluster; its masters.
    Many(ClusterConnection, Masters),
}

/// The masters of a cluster by their ids, each with a range of its slots.
pub(super) type Masters = BTreeMap<Vec<u8>, (u16, u16)>;

/// How often it is asked whether the servers are still the ones.
const ASK_AGAIN: Duration = Duration::from_secs(2);

fn handler(incoming: Incoming) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
    move |info: PushInfo| {
        match info.kind {
            PushKind::Message | PushKind::SMessage => {
                if let [Value::BulkString(channel), Value::BulkString(message)] = info.data.as_slice() {
                    incoming(Came::Message(channel, Bytes::copy_from_slice(message)));
                }
            }
            PushKind::SUnsubscribe => {
                if let Some(Value::BulkString(channel)) = info.data.first() {
                    incoming(Came::Ended(channel));
                }
            }
            PushKind::Disconnection => incoming(Came::Gone),
            _ => {}
        }
        Ok(())
    }
}

async fn open(address: &str, patience: Duration, incoming: Incoming) -> RedisResult<MultiplexedConnection> {
    let info = address.into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience))
        .set_push_sender(handler(incoming));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The address of the server that most recently was the master, from the first sentinel that knows.
async fn master(options: &Options, name: &str, patience: Duration) -> RedisResult<String> {
    let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "no sentinel is configured"));
    for address in &options.nodes {
        let asked = async {
            let info = address.as_str().into_connection_info()?;
            let login = info.redis_settings().clone();
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(patience / 3))
                .set_response_timeout(Some(patience / 3));
            let mut sentinel = Client::open(info)?
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            let found: Option<(String, u16)> = redis::cmd("SENTINEL")
                .arg("get-master-addr-by-name")
                .arg(name)
                .query_async(&mut sentinel)
                .await?;
            let (host, port) = found.ok_or_else(|| {
                RedisError::from((
                    ErrorKind::InvalidClientConfig,
                    "the sentinel knows no master of this name",
                    name.to_owned(),
                ))
            })?;
            let login = match (login.username(), login.password()) {
                (Some(user), Some(password)) => format!("{user}:{password}@"),
                (None, Some(password)) => format!(":{password}@"),
                _ => String::new(),
            };
            RedisResult::Ok(format!("redis://{login}{host}:{port}"))
        };
        match asked.await {
            Ok(address) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The masters, as whichever node is asked knows them.
async fn masters(connection: &mut ClusterConnection) -> RedisResult<Masters> {
    let slots: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
    let mut masters = Masters::new();
    for range in slots {
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else {
            continue;
        };
        if let (Some(Value::BulkString(id)), Ok(first), Ok(last)) =
            (master.get(2), u16::try_from(*first), u16::try_from(*last))
        {
            masters.entry(id.clone()).or_insert((first, last));
        }
    }
    Ok(masters)
}

impl Link {
    pub async fn connect(options: &Options, patience: Duration, incoming: Incoming) -> RedisResult<Self> {
        match &options.mode {
            Mode::Standalone => {
                let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "no address is configured"));
                for address in &options.nodes {
                    match open(address, patience, incoming.clone()).await {
                        Ok(connection) => return Ok(Self::One(connection)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Mode::Sentinel(name) => {
                let address = master(options, name, patience).await?;
                let mut connection = open(&address, patience, incoming).await?;
                // A sentinel that was away may name a server that is the master no more.
                let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
                match role.first() {
                    Some(Value::BulkString(role)) if role == b"master" => Ok(Self::Named(connection, address)),
                    _ => Err(RedisError::from((
                        ErrorKind::InvalidClientConfig,
                        "the server that the sentinels name is no master",
                    ))),
                }
            }
            Mode::Cluster => {
                let client = ClusterClient::builder(options.nodes.iter().map(String::as_str))
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(patience)
                    .response_timeout(patience)
                    .retries(1)
                    .push_sender(handler(incoming))
                    .build()?;
                let mut connection = client.get_async_connection().await?;
                let masters = masters(&mut connection).await?;
                Ok(Self::Many(connection, masters))
            }
        }
    }

    /// Ends when other servers are the ones to talk to; says what changed. A server that was replaced may still answer
    /// those who talk to it, and deliver nothing of what the others publish.
    pub fn replaced(&self, options: &Options) -> BoxFuture<'static, String> {
        let options = options.clone();
        match (self, options.mode.clone()) {
            (Self::Named(_, address), Mode::Sentinel(name)) => {
                let address = address.clone();
                Box::pin(async move {
                    loop {
                        tokio::time::sleep(ASK_AGAIN).await;
                        // Sentinels that are away change nothing: the server may be well.
                        let named = master(&options, &name, super::PATIENCE).await;
                        if named.is_ok_and(|named| named != address) {
                            return "the sentinels name another server now".to_owned();
                        }
                    }
                })
            }
            (Self::Many(connection, before), _) => {
                let (mut connection, before) = (connection.clone(), before.clone());
                Box::pin(async move {
                    loop {
                        tokio::time::sleep(ASK_AGAIN).await;
                        let now = masters(&mut connection).await;
                        if now.is_ok_and(|now| !now.keys().eq(before.keys())) {
                            return "the cluster has other masters now".to_owned();
                        }
                    }
                })
            }
            _ => Box::pin(std::future::pending()),
        }
    }

    /// Channels that begin like this, one on each server that carries messages.
    pub fn channel_on_each(&self, beginning: &str) -> Vec<String> {
        let Self::Many(_, masters) = self else {
            return vec![beginning.to_owned()];
        };
        let on = |(first, last): (u16, u16)| {
            let mut names = (0_u32..).map(|number| format!("{beginning}:{number}"));
            let within = |name: &String| {
                let slot = Slot::for_key(name);
                (first..=last).any(|number| Slot::new(number) == Some(slot))
            };
            names.find(within).expect("every slot has names without end")
        };
        masters.values().copied().map(on).collect()
    }

    /// Sends messages; those of one channel in order.
    pub async fn publish(&mut self, messages: Vec<(String, Bytes)>) -> RedisResult<()> {
        match self {
            Self::One(connection) | Self::Named(connection, _) => {
                let mut pipe = redis::pipe();
                for (channel, message) in messages {
                    pipe.cmd("PUBLISH").arg(channel).arg(&message[..]).ignore();
                }
                pipe.query_async(connection).await
            }
            Self::Many(connection, _) => {
                let mut channels: Vec<(String, Vec<Bytes>)> = Vec::new();
                let mut places = std::collections::HashMap::new();
                for (channel, message) in messages {
                    let place = *places.entry(channel.clone()).or_insert_with(|| {
                        channels.push((channel, Vec::new()));
                        channels.len() - 1
                    });
                    channels[place].1.push(message);
                }
                try_join_all(channels.into_iter().map(|(channel, messages)| {
                    let mut connection = connection.clone();
                    async move {
                        for message in messages {
                            let _: i64 = redis::cmd("SPUBLISH")
                                .arg(&channel)
                                .arg(&message[..])
                                .query_async(&mut connection)
                                .await?;
                        }
                        RedisResult::Ok(())
                    }
                }))
                .await
                .map(drop)
            }
        }
    }

    /// Subscribes; comes back when Redis has confirmed all of them.
    pub async fn subscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        if channels.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection) | Self::Named(connection, _) => connection.subscribe(channels).await,
            Self::Many(connection, _) => {
                let each = channels.iter().map(|channel| {
                    let mut connection = connection.clone();
                    async move { connection.ssubscribe(channel).await }
                });
                try_join_all(each).await.map(drop)
            }
        }
    }

    /// Unsubscribes.
    pub async fn unsubscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        if channels.is_empty() {
            return Ok(());
        }
        match self {
            Self::One(connection) | Self::Named(connection, _) => connection.unsubscribe(channels).await,
            Self::Many(connection, _) => {
                let each = channels.iter().map(|channel| {
                    let mut connection = connection.clone();
                    async move { connection.sunsubscribe(channel).await }
                });
                try_join_all(each).await.map(drop)
            }
        }
    }

    /// Writes this node's record; the broker's time in microseconds, and all records.
    pub async fn beat(
        &mut self,
        key: &str,
        node: NodeId,
        body: &Bytes,
        record_max_ms: u64,
    ) -> RedisResult<(i64, Records)> {
        let mut command = redis::cmd("EVAL");
        command
            .arg(BEAT)
            .arg(1)
            .arg(key)
            .arg(format!("{:016x}", node.0))
            .arg(&body[..])
            .arg(record_max_ms);
        let (seconds, micros, flat): (i64, i64, Vec<Vec<u8>>) = match self {
            Self::One(connection) | Self::Named(connection, _) => command.query_async(connection).await?,
            Self::Many(connection, _) => command.query_async(connection).await?,
        };
        let mut records = Vec::with_capacity(flat.len() / 2);
        let mut flat = flat.into_iter();
        while let (Some(node), Some(record)) = (flat.next(), flat.next()) {
            records.push((node, record));
        }
        Ok((seconds * 1_000_000 + micros, records))
    }

    /// Removes this node's record.
    pub async fn forget(&mut self, key: &str, node: NodeId) -> RedisResult<()> {
        let mut command = redis::cmd("HDEL");
        command.arg(key).arg(format!("{:016x}", node.0));
        match self {
            Self::One(connection) | Self::Named(connection, _) => command.query_async(connection).await,
            Self::Many(connection, _) => command.query_async(connection).await,
        }
    }
}
