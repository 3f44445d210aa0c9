//! The file of users: names, roles, and hashes of passwords or tokens.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, Params};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::access::Role;

/// Passwords that are checked at the same time. Each takes 19 MiB and some 20 ms.
const CONCURRENT_CHECKS: usize = 2;
/// Proved passwords that are remembered, as hashes, so that a page does not check one for each request.
const REMEMBERED: usize = 256;
/// Bytes of a salt.
const SALT_BYTES: usize = 16;

/// Users with passwords or tokens. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    inner: Arc<Inner>,
}

struct Inner {
    by_name: HashMap<String, (Role, Option<String>)>,
    tokens: Vec<([u8; 32], String, Role)>,
    /// SHA-256 of a name and password that was proved, with a random key: the values mean nothing elsewhere.
    proved: Mutex<HashMap<[u8; 32], ()>>,
    key: [u8; 32],
    checks: Semaphore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    user: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: Role,
    password: Option<String>,
    token: Option<String>,
}

impl Users {
    /// Reads a file. An error says what is wrong with which user.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the users file {shown}: {error}"))?;
        Self::parse(&text).map_err(|why| format!("users file {shown}: {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut by_name = HashMap::new();
        let mut tokens = Vec::new();
        for Entry { name, role, password, token } in file.user {
            let wrong = |why: &str| format!("user {name:?}: {why}");
            if name.is_empty() || name.contains(':') {
                return Err(wrong("a name must not be empty or contain a colon"));
            }
            if password.is_none() && token.is_none() {
                return Err(wrong("set password or token; nsq auth password prints one for the file"));
            }
            if let Some(hash) = &password {
                PasswordHash::new(hash)
                    .map_err(|_| wrong("password must be a hash that starts with $argon2id$"))?;
            }
            if let Some(token) = &token {
                let bytes = token.strip_prefix("sha256:").and_then(decode_hex);
                let hash = bytes.ok_or_else(|| wrong("token must be sha256: and 64 hexadecimal digits"))?;
                tokens.push((hash, name.clone(), role));
            }
            if by_name.insert(name.clone(), (role, password)).is_some() {
                return Err(wrong("is listed twice"));
            }
        }
        let mut key = [0; 32];
        OsRng.try_fill_bytes(&mut key).map_err(|error| format!("no random bytes: {error}"))?;
        let (proved, checks) = (Mutex::default(), Semaphore::new(CONCURRENT_CHECKS));
        Ok(Users { inner: Arc::new(Inner { by_name, tokens, proved, key, checks }) })
    }

    /// The user that the `Authorization` header proves: name, role, and `password` or `token`.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Option<(String, Role, &'static str)> {
        let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
        if let Some(token) = header.strip_prefix("Bearer ") {
            let hash: [u8; 32] = Sha256::digest(token.trim()).into();
            let found = self.inner.tokens.iter().find(|(known, ..)| bool::from(known.ct_eq(&hash)));
            return found.map(|(_, name, role)| (name.clone(), *role, "token"));
        }
        let pair = STANDARD.decode(header.strip_prefix("Basic ")?.trim()).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (name, password) = pair.split_once(':')?;
        let (role, hash) = self.inner.by_name.get(name)?;
        let hash = hash.clone()?;
        let proof: [u8; 32] = Sha256::new()
            .chain_update(self.inner.key)
            .chain_update(name)
            .chain_update([0])
            .chain_update(password)
            .finalize()
            .into();
        if !self.inner.proved.lock().contains_key(&proof) {
            let _check = self.inner.checks.acquire().await.ok()?;
            let password = password.to_owned();
            let is_right = tokio::task::spawn_blocking(move || {
                PasswordHash::new(&hash)
                    .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
            });
            if !is_right.await.unwrap_or(false) {
                return None;
            }
            let mut proved = self.inner.proved.lock();
            if proved.len() >= REMEMBERED {
                proved.clear();
            }
            proved.insert(proof, ());
        }
        Some((name.to_owned(), *role, "password"))
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("names", &self.inner.by_name.len()).finish_non_exhaustive()
    }
}

/// The hash of a password, for the users file.
pub fn hash_password(password: &str) -> Result<String, String> {
    let mut salt = [0; SALT_BYTES];
    OsRng.try_fill_bytes(&mut salt).map_err(|error| format!("no random bytes: {error}"))?;
    let salt = SaltString::encode_b64(&salt).map_err(|error| error.to_string())?;
    let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::default());
    let hash = argon.hash_password(password.as_bytes(), &salt).map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[tokio::test]
    async fn passwords_and_tokens_are_checked() {
        let hash = hash_password("open sesame").unwrap();
        let token: String = Sha256::digest("nsq_secret").iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "[[user]]\nname = 'ann'\nrole = 'admin'\npassword = '{hash}'\n\
             [[user]]\nname = 'script'\nrole = 'operator'\ntoken = 'sha256:{token}'\n"
        );
        let users = Users::parse(&text).unwrap();
        let basic = |pair: &str| headers(&format!("Basic {}", STANDARD.encode(pair)));
        for _ in 0..2 {
            let ann = users.authenticate(&basic("ann:open sesame")).await;
            assert_eq!(ann, Some(("ann".to_owned(), Role::Admin, "password")));
        }
        assert_eq!(users.authenticate(&basic("ann:wrong")).await, None);
        assert_eq!(users.authenticate(&basic("nobody:open sesame")).await, None);
        let script = users.authenticate(&headers("Bearer nsq_secret")).await;
        assert_eq!(script, Some(("script".to_owned(), Role::Operator, "token")));
        assert_eq!(users.authenticate(&headers("Bearer nsq_other")).await, None);
        assert_eq!(users.authenticate(&HeaderMap::new()).await, None);
    }

    #[test]
    fn mistakes_in_the_file_are_refused() {
        for (text, part) in [
            ("[[user]]\nname = 'a'\nrole = 'admin'\n", "set password or token"),
            ("[[user]]\nname = 'a'\nrole = 'king'\npassword = 'x'\n", "king"),
            ("[[user]]\nname = 'a'\nrole = 'admin'\npassword = 'plain'\n", "$argon2id$"),
            ("[[user]]\nname = 'a:b'\nrole = 'admin'\ntoken = 'x'\n", "colon"),
            ("[[user]]\nname = 'a'\nrole = 'admin'\ntoken = 'sha256:1'\n", "64 hexadecimal"),
            ("[[user]]\nname = 'a'\nrole = 'admin'\nfoo = 1\n", "foo"),
        ] {
            let error = Users::parse(text).err().unwrap_or_default();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
