//! The keys that sign access tokens, for their owner's eyes only.
//!
//! The first is made on first start, in `<data_dir>/keys/ed25519.pem`. Later ones have in their name from when on they sign
//! (`ed25519-<Unix milliseconds>.pem`): every node has read a new key, and can check its tokens, before any node signs with
//! it, so nobody is signed out. Old keys check until they are removed.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use hmac::{Hmac, Mac};
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::{Digest, Sha256};
use taskflow_protocol::values::UnixMs;

/// Folder of the key, in the data folder.
const FOLDER: &str = "keys";
/// File of the first key, in its folder: PKCS #8 (RFC 8410) in PEM.
const FILE: &str = "ed25519.pem";
/// How the files of later keys begin; a number and [`SUFFIX`] follow.
const PREFIX: &str = "ed25519-";
/// How they end.
const SUFFIX: &str = ".pem";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("the signing key {}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
    /// Others can read it: whoever has it can be anyone.
    #[error("the signing key {} has mode {mode:o}: it must be readable by its owner only (chmod {expected:o})", path.display())]
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// What it has.
        mode: u32,
        /// What it must have.
        expected: u32,
    },
    /// It is no key. It is never replaced by a new one: that would sign everybody out, and hide a damaged disk.
    #[error("the signing key {} is damaged: {cause}; restore it from a backup, or move it away to get a new one (everybody then has to sign in again)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        cause: String,
    },
}

/// Around a key in PEM (RFC 7468, section 10).
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// A key and what is derived from it.
pub struct Key {
    signing: SigningKey,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// Names the public key in token headers and in the key set: its thumbprint (RFC 7638).
    pub id: String,
}

/// All keys, each with the time from which on it signs.
#[derive(Clone)]
pub struct Keys(Vec<(UnixMs, Arc<Key>)>);

impl Keys {
    /// Where the first key is.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FOLDER).join(FILE)
    }

    /// Only this one.
    pub fn of(key: Key) -> Self {
        Self(vec![(UnixMs::MIN, Arc::new(key))])
    }

    /// The keys in this text (PKCS #8, PEM, one after the other), from wherever it comes: `name` says from where. The first one
    /// signs.
    pub fn from_pem(name: &str, pem: &str) -> Result<Self, KeyError> {
        let damaged = |number: usize, cause: String| KeyError::Damaged {
            path: name.into(),
            cause: format!("key {number} in it: {cause}"),
        };
        let mut keys = Vec::<(UnixMs, Arc<Key>)>::new();
        let mut rest = pem.trim();
        while !rest.is_empty() || keys.is_empty() {
            let number = keys.len() + 1;
            // A parser would pass over what stands before a key, and whoever wrote it there would not know.
            if !rest.starts_with(PEM_BEGIN) {
                return Err(damaged(number, format!("it does not begin with {PEM_BEGIN}")));
            }
            let end = rest.find(PEM_END).map_or(rest.len(), |at| at + PEM_END.len());
            let (block, behind) = rest.split_at(end);
            let signing = SigningKey::from_pkcs8_pem(block).map_err(|error| damaged(number, error.to_string()))?;
            let key = Key::new(signing);
            if let Some(place) = keys.iter().position(|(_, other)| other.id == key.id) {
                return Err(damaged(number, format!("it is key {} again", place + 1)));
            }
            keys.push((UnixMs::MIN, Arc::new(key)));
            rest = behind.trim_start();
        }
        // All from ever on: of those the last one signs.
        keys.reverse();
        Ok(Self(keys))
    }

    /// Reads the keys, or makes one if there is none yet.
    pub fn open_or_create(data_dir: &Path) -> Result<Self, KeyError> {
        match Self::open(data_dir) {
            Err(KeyError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                place(data_dir, FILE)?;
                // What is used is what was stored.
                Self::open(data_dir)
            }
            other => other,
        }
    }

    /// Reads the keys; for whoever must not make one.
    pub fn open(data_dir: &Path) -> Result<Self, KeyError> {
        let folder = data_dir.join(FOLDER);
        let fail = |path: &Path, cause| KeyError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut keys = Vec::new();
        let files = fs::read_dir(&folder).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotADirectory => fail(&Self::path(data_dir), cause),
            _ => fail(&folder, cause),
        })?;
        for file in files {
            let name = file.map_err(|cause| fail(&folder, cause))?.file_name();
            if let Some(from) = name.to_str().and_then(signs_from) {
                keys.push((from, Arc::new(read(&folder, &folder.join(&name))?)));
            }
        }
        if keys.is_empty() {
            return Err(fail(&Self::path(data_dir), io::ErrorKind::NotFound.into()));
        }
        keys.sort_by_key(|(from, _)| *from);
        Ok(Self(keys))
    }

    /// Makes a key that signs from then on.
    pub fn add(data_dir: &Path, from: UnixMs) -> Result<(), KeyError> {
        place(data_dir, &format!("{PREFIX}{from}{SUFFIX}"))
    }

    /// Removes a key: what it signed is refused from then on. `false`: there is none of this id.
    pub fn remove(data_dir: &Path, id: &str) -> Result<bool, KeyError> {
        let keys = Self::open(data_dir)?;
        let Some((from, _)) = keys.0.iter().find(|(_, key)| key.id == id) else {
            return Ok(false);
        };
        let name = match *from {
            UnixMs::MIN => FILE.to_owned(),
            from => format!("{PREFIX}{from}{SUFFIX}"),
        };
        let path = data_dir.join(FOLDER).join(name);
        fs::remove_file(&path).map_err(|cause| KeyError::Io { path, cause })?;
        Ok(true)
    }

    /// The key that signs at this time.
    pub fn at(&self, time: UnixMs) -> &Key {
        let begun = self.0.partition_point(|(from, _)| *from <= time);
        &self.0[begun.saturating_sub(1)].1
    }

    /// The key of this id.
    pub fn find(&self, id: &str) -> Option<&Key> {
        let found = self.0.iter().find(|(_, key)| key.id == id);
        found.map(|(_, key)| &**key)
    }

    /// Each key with the time from which on it signs, the first first.
    pub fn iter(&self) -> impl Iterator<Item = (UnixMs, &Key)> {
        self.0.iter().map(|(from, key)| (*from, &**key))
    }

    /// The key set (RFC 7517) for whoever checks our tokens.
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.iter().map(|(_, key)| key.jwk()).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

/// From when on the key in this file signs; `None`: it is no key of ours.
fn signs_from(file: &str) -> Option<UnixMs> {
    if file == FILE {
        return Some(UnixMs::MIN);
    }
    file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

fn read(folder: &Path, path: &Path) -> Result<Key, KeyError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |cause| KeyError::Io { path, cause }
    };
    let pem = fs::read_to_string(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::InvalidData => KeyError::Damaged {
            path: path.to_owned(),
            cause: "it is not text".to_owned(),
        },
        _ => KeyError::Io {
            path: path.to_owned(),
            cause,
        },
    })?;
    for (path, expected) in [(folder, 0o700), (path, 0o600)] {
        let mode = fs::metadata(path).map_err(io(path))?.permissions().mode() & 0o777;
        if mode & !expected != 0 {
            return Err(KeyError::Mode {
                path: path.to_owned(),
                mode,
                expected,
            });
        }
    }
    let signing = SigningKey::from_pkcs8_pem(&pem).map_err(|error| KeyError::Damaged {
        path: path.to_owned(),
        cause: error.to_string(),
    })?;
    Ok(Key::new(signing))
}

/// Makes a key. Written beside, synced, then put in its place: a crash leaves no half key, and of two nodes that share the
/// folder and start at once one makes the key of both.
fn place(data_dir: &Path, name: &str) -> Result<(), KeyError> {
    let folder = data_dir.join(FOLDER);
    let path = folder.join(name);
    let fail = |cause| KeyError::Io {
        path: path.clone(),
        cause,
    };
    let pem = Key::random()
        .signing
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| fail(io::Error::other(error.to_string())))?;
    // With the data folder, if that is not there yet: for its owner only, too.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(fail)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(fail)?;
    let beside = folder.join(format!("{name}.new-{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(fail)?;
    file.write_all(pem.as_bytes()).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    // Unlike a rename this never replaces a key that is there.
    let placed = fs::hard_link(&beside, &path);
    fs::remove_file(&beside).map_err(fail)?;
    match placed {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
        _ => {}
    }
    fs::File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fail)
}

impl Key {
    /// A key of its own, kept nowhere.
    pub fn random() -> Self {
        Self::new(SigningKey::from_bytes(&rand::random()))
    }

    fn new(signing: SigningKey) -> Self {
        let x = URL_SAFE_NO_PAD.encode(signing.verifying_key().as_bytes());
        // The members in this order and without spaces: RFC 7638, section 3.2; RFC 8037, appendix A.3.
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let der = signing
            .to_pkcs8_der()
            .expect("an Ed25519 key always has a PKCS #8 form");
        Self {
            encoding: EncodingKey::from_ed_der(der.as_bytes()),
            decoding: DecodingKey::from_ed_components(&x).expect("the public key is 32 bytes in base64"),
            signing,
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(canonical)),
        }
    }

    /// The public half, as in a JSON Web Key.
    pub fn public_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.signing.verifying_key().as_bytes())
    }

    /// The private half, for signing.
    pub fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }

    /// The public half, for checking.
    pub fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// A secret for one purpose that nobody without the key can compute (HMAC-SHA-256, RFC 2104).
    pub fn derive(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(purpose, parts).finalize().into_bytes().into()
    }

    /// Whether these are the first bytes of what [`Key::derive`] gives. The time that it takes tells nothing about them.
    pub fn has_derived(&self, purpose: &str, parts: &[&[u8]], bytes: &[u8]) -> bool {
        self.mac(purpose, parts).verify_truncated_left(bytes).is_ok()
    }

    fn mac(&self, purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.signing.as_bytes()).expect("HMAC takes keys of any length");
        // Each part with its length: no two inputs make the same bytes.
        for part in [purpose.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn jwk(&self) -> serde_json::Value {
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id, "x": self.public_x(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_made_once_for_its_owner_only_and_read_back_after() {
        let data = tempfile::tempdir().expect("a folder");
        let first = Keys::open_or_create(data.path()).expect("made");
        assert_eq!(mode(&data.path().join("keys")), 0o700);
        assert_eq!(mode(&Keys::path(data.path())), 0o600);
        let again = Keys::open_or_create(data.path()).expect("read");
        assert_eq!(again.jwks(), first.jwks());
        assert_eq!(again.at(0).signing, first.at(0).signing);
        assert_ne!(Key::random().id, first.at(0).id);
    }

    #[test]
    fn those_who_start_at_once_get_the_same_key() {
        for _ in 0..20 {
            let data = tempfile::tempdir().expect("a folder");
            let together = std::sync::Barrier::new(8);
            let open = || {
                together.wait();
                Keys::open_or_create(data.path())
                    .expect("made or read")
                    .at(0)
                    .id
                    .clone()
            };
            let ids: std::collections::HashSet<String> = std::thread::scope(|scope| {
                let started: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                started.into_iter().map(|node| node.join().expect("a key")).collect()
            });
            assert_eq!(ids.len(), 1);
            let left = fs::read_dir(data.path().join("keys")).expect("there").count();
            assert_eq!(left, 1, "nothing else is left");
        }
    }

    #[test]
    fn keys_sign_one_after_the_other_and_check_until_they_are_removed() {
        let data = tempfile::tempdir().expect("a folder");
        let first = Keys::open_or_create(data.path()).expect("made").at(0).id.clone();
        Keys::add(data.path(), 5_000).expect("made");
        Keys::add(data.path(), 9_000).expect("made");
        // What is no key of ours is left alone.
        fs::write(data.path().join("keys/README"), "hands off").expect("written");
        let keys = Keys::open(data.path()).expect("read");
        let ids: Vec<&str> = keys.iter().map(|(_, key)| &*key.id).collect();
        assert_eq!(ids.len(), 3);
        for (time, expected) in [(0, 0), (4_999, 0), (5_000, 1), (8_999, 1), (9_000, 2), (i64::MAX, 2)] {
            assert_eq!(keys.at(time).id, ids[expected], "at {time}");
        }
        assert_eq!(keys.find(ids[1]).map(|key| &*key.id), Some(ids[1]));
        assert_eq!(keys.jwks().matches("kid").count(), 3);
        assert!(matches!(Keys::remove(data.path(), &first), Ok(true)));
        assert!(matches!(Keys::remove(data.path(), &first), Ok(false)));
        let left = Keys::open_or_create(data.path()).expect("read");
        assert!(left.find(&first).is_none());
        assert_eq!(left.at(0).id, ids[1], "the first there is");
    }

    #[test]
    fn of_keys_in_one_text_the_first_signs_and_all_check() {
        let pem = || {
            let pem = Key::random()
                .signing
                .to_pkcs8_pem(LineEnding::LF)
                .expect("it has a form");
            pem.to_string()
        };
        let id = |pem: &str| Keys::from_pem("here", pem).expect("a key").at(0).id.clone();
        let (first, second) = (pem(), pem());
        for both in [
            format!("{first}{second}"),
            format!("\n{first}\n\n{second}\n"),
            format!("{}{}", first.trim_end(), second.trim_end()),
            format!("{first}{second}").replace('\n', "\r\n"),
        ] {
            let keys = Keys::from_pem("here", &both).expect("two keys");
            for time in [UnixMs::MIN, 0, UnixMs::MAX] {
                assert_eq!(keys.at(time).id, id(&first));
            }
            assert_eq!(keys.iter().count(), 2);
            assert!(keys.find(&id(&second)).is_some());
        }
        let half = &second[..second.len() / 2];
        for (wrong, expected) in [
            (
                String::new(),
                "key 1 in it: it does not begin with -----BEGIN PRIVATE KEY-----",
            ),
            (
                "no key".to_owned(),
                "key 1 in it: it does not begin with -----BEGIN PRIVATE KEY-----",
            ),
            (
                format!("{first}the old one:\n{second}"),
                "key 2 in it: it does not begin with -----BEGIN PRIVATE KEY-----",
            ),
            (
                format!("{first}{second}."),
                "key 3 in it: it does not begin with -----BEGIN PRIVATE KEY-----",
            ),
            (format!("{first}{first}"), "key 2 in it: it is key 1 again"),
            (format!("{first}{half}"), "key 2 in it: "),
        ] {
            let error = Keys::from_pem("in signing_key", &wrong)
                .err()
                .expect("refused")
                .to_string();
            let begin = format!("the signing key in signing_key is damaged: {expected}");
            assert!(error.starts_with(&begin), "{error}");
            assert!(!error.contains(&second[30..60]), "{error}");
        }
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        // The key of RFC 8037, appendix A.1, and its thumbprint in A.3.
        let d = URL_SAFE_NO_PAD
            .decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
            .expect("base64");
        let key = Key::new(SigningKey::from_bytes(&d.try_into().expect("32 bytes")));
        assert_eq!(key.public_x(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.id, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_by_name() {
        let data = tempfile::tempdir().expect("a folder");
        Keys::open_or_create(data.path()).expect("made");
        let path = Keys::path(data.path());
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
        let error = Keys::open_or_create(data.path()).err().expect("refused").to_string();
        let expected = format!(
            "the signing key {} has mode 640: it must be readable by its owner only (chmod 600)",
            path.display()
        );
        assert_eq!(error, expected);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        fs::set_permissions(data.path().join("keys"), Permissions::from_mode(0o755)).expect("set");
        let error = Keys::open_or_create(data.path()).err().expect("refused").to_string();
        assert!(error.contains("/keys has mode 755"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_by_name_and_left_alone() {
        let data = tempfile::tempdir().expect("a folder");
        Keys::open_or_create(data.path()).expect("made");
        let path = Keys::path(data.path());
        let good = fs::read(&path).expect("read");
        for damaged in [
            &good[..good.len() / 2],
            b"",
            b"\xff\xfe",
            b"-----BEGIN PRIVATE KEY-----\n",
        ] {
            fs::write(&path, damaged).expect("written");
            let error = Keys::open_or_create(data.path()).err().expect("refused").to_string();
            let expected = format!("the signing key {} is damaged: ", path.display());
            assert!(error.starts_with(&expected), "{error}");
            assert_eq!(fs::read(&path).expect("read"), damaged);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let data = tempfile::tempdir().expect("a folder");
        fs::write(data.path().join("keys"), "a file").expect("written");
        let error = Keys::open_or_create(data.path()).err().expect("refused").to_string();
        assert!(error.contains("keys/ed25519.pem: "), "{error}");
    }
}
