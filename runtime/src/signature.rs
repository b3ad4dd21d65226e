//! Detached signatures of plans: Ed25519, in the format of `ssh-keygen -Y sign`.
//!
//! A signature lies beside its plan, in `my.plan.sig`: a build stays reproducible, and a plan can be signed later, by others, with their
//! own tools. What is signed is the digest of the plan, as 64 hexadecimal digits without a line break, in the namespace `jamba-plan`:
//!
//! ```sh
//! printf DIGEST | ssh-keygen -Y sign -f KEY -n jamba-plan > my.plan.sig
//! ```
//!
//! The digest covers every byte of the plan, so a valid signature says that the owner of the key signed this plan and no other.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ssh_key::{AuthorizedKeys, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use crate::RuntimeError;

/// Separates signatures of plans from those of other data with the same key.
const NAMESPACE: &str = "jamba-plan";

/// Most bytes of a signature, and of a file of keys.
const MOST_BYTES: u64 = 1 << 20;

/// Public keys whose signatures are trusted.
#[derive(Clone, Debug)]
pub struct TrustedKeys {
    /// Where they come from, for messages.
    origin: PathBuf,
    keys: Vec<PublicKey>,
}

impl TrustedKeys {
    /// Reads a file with one public key a line, as in `id_ed25519.pub` and `authorized_keys`. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] for a file that cannot be read, [`RuntimeError::Signature`] for one with something else or without a key.
    pub fn read(path: &Path) -> Result<TrustedKeys, RuntimeError> {
        let text = read(path)?;
        let failed = |reason: String| RuntimeError::Signature { path: path.to_owned(), reason };
        let entries: Result<Vec<_>, _> = AuthorizedKeys::new(&text).collect();
        let entries = entries.map_err(|error| failed(format!("{error}, expected a public key in each line")))?;
        let keys: Vec<PublicKey> = entries.into_iter().map(PublicKey::from).collect();
        if let Some(other) = keys.iter().find(|key| key.key_data().ed25519().is_none()) {
            return Err(failed(format!("found a key of type {}, expected ssh-ed25519", other.algorithm())));
        }
        match keys.is_empty() {
            true => Err(failed("found no public key".to_owned())),
            false => Ok(TrustedKeys { origin: path.to_owned(), keys }),
        }
    }

    /// The keys in `jamba/trusted_keys` of the user's configuration (`$XDG_CONFIG_HOME`, or `~/.config`).
    ///
    /// # Errors
    /// As [`TrustedKeys::read`].
    pub fn of_user() -> Result<TrustedKeys, RuntimeError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        TrustedKeys::read(&config.unwrap_or_default().join("jamba/trusted_keys"))
    }

    /// Checks that one of the keys signed a plan with this digest; the signature is beside `plan`.
    ///
    /// # Errors
    /// [`RuntimeError::Signature`]: there is no signature, it is of another plan, or of a key that is not trusted.
    pub fn check(&self, plan: &Path, digest: blake3::Hash) -> Result<(), RuntimeError> {
        let path = signature_of(plan);
        let failed = |reason: String| RuntimeError::Signature { path: path.clone(), reason };
        let text = match read(&path) {
            Err(RuntimeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(failed("there is no such file: the plan is not signed".to_owned()));
            }
            text => text?,
        };
        let signature = SshSig::from_pem(text.as_bytes())
            .map_err(|error| failed(format!("{error}, expected a signature, as ssh-keygen -Y sign makes it")))?;
        // Versions and lengths are no part of what is signed, and the parser is lenient: only one text stands for a signature.
        let only = signature.to_pem(LineEnding::LF).unwrap_or_default();
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        if signature.version() != SshSig::VERSION || letters(&only) != letters(&text) {
            return Err(failed("is not written as ssh-keygen -Y sign writes it".to_owned()));
        }
        let Some(key) = self.keys.iter().find(|key| key.key_data() == signature.public_key()) else {
            let found = signature.public_key().fingerprint(HashAlg::Sha256);
            return Err(failed(format!("is of the key {found}, which is not in {}", self.origin.display())));
        };
        match signature.namespace() {
            NAMESPACE => {}
            other => return Err(failed(format!("is of the namespace {other:?}, expected {NAMESPACE:?}"))),
        }
        key.verify(NAMESPACE, message(digest).as_bytes(), &signature)
            .map_err(|_| failed(format!("is no signature of the plan with the digest {digest}")))
    }
}

/// The file of a plan's signature: `my.plan.sig`.
pub fn signature_of(plan: &Path) -> PathBuf {
    let mut name = OsString::from(plan);
    name.push(".sig");
    name.into()
}

/// A private key that signs plans.
pub struct SigningKey(PrivateKey);

impl SigningKey {
    /// Reads an Ed25519 key, as `ssh-keygen -t ed25519` writes it, without a passphrase.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] for a file that cannot be read, [`RuntimeError::Signature`] for one that is no such key.
    pub fn read(path: &Path) -> Result<SigningKey, RuntimeError> {
        let failed = |reason: String| RuntimeError::Signature { path: path.to_owned(), reason };
        let key = PrivateKey::from_openssh(read(path)?.as_bytes())
            .map_err(|error| failed(format!("{error}, expected a private key of ssh-keygen -t ed25519")))?;
        if key.is_encrypted() {
            let instead = format!("printf DIGEST | ssh-keygen -Y sign -f {} -n {NAMESPACE}", path.display());
            return Err(failed(format!("the key has a passphrase; sign the plan with ssh-keygen: {instead}")));
        }
        match key.key_data().ed25519() {
            Some(_) => Ok(SigningKey(key)),
            None => Err(failed(format!("found a key of type {}, expected ssh-ed25519", key.algorithm()))),
        }
    }

    /// The signature of the plan with this digest: the text of its `.sig` file.
    ///
    /// # Errors
    /// [`RuntimeError::Signature`] if the key cannot sign.
    pub fn sign(&self, digest: blake3::Hash) -> Result<String, RuntimeError> {
        let failed = |error: ssh_key::Error| RuntimeError::Signature {
            path: "the private key".into(),
            reason: error.to_string(),
        };
        let signature = self.0.sign(NAMESPACE, HashAlg::Sha512, message(digest).as_bytes()).map_err(failed)?;
        signature.to_pem(LineEnding::LF).map_err(failed)
    }
}

/// What is signed.
fn message(digest: blake3::Hash) -> String {
    digest.to_hex().to_string()
}

fn read(path: &Path) -> Result<String, RuntimeError> {
    let failed = |source| RuntimeError::Io { path: path.to_owned(), action: "read it", source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MOST_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use ssh_key::private::Ed25519Keypair;

    use super::*;

    /// `printf DIGEST | ssh-keygen -Y sign -f key -n jamba-plan`, for [`digest`] and the key of seed 7.
    const BY_SSH_KEYGEN: &str = "\
        -----BEGIN SSH SIGNATURE-----\n\
        U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg6kpsY+KcUgq+9VB7Ey7F+ZVHdq\n\
        6+vnuSQh7qaRRG0iwAAAAKamFtYmEtcGxhbgAAAAAAAAAGc2hhNTEyAAAAUwAAAAtzc2gt\n\
        ZWQyNTUxOQAAAECpi8dPQTUjts6RMCK7G1DYFF7O32ofvIOTAoO/CUDlUW7NXWW8ICxwWl\n\
        TlJuuGyNuNvYVwqxba/5VWPUYDXxMH\n\
        -----END SSH SIGNATURE-----\n";

    fn digest() -> blake3::Hash {
        blake3::Hash::from_bytes([5; 32])
    }

    /// A key made of this seed, as the text of its private and of its public file.
    fn key_of(seed: u8) -> [String; 2] {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        [key.to_openssh(LineEnding::LF).unwrap().to_string(), key.public_key().to_openssh().unwrap()]
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new(keys: &str) -> Files {
            let files = Files(tempfile::tempdir().unwrap());
            files.write("keys", keys);
            files
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            std::fs::write(self.0.path().join(name), text).unwrap();
            self.0.path().join(name)
        }

        fn check(&self) -> Result<(), String> {
            let keys = TrustedKeys::read(&self.0.path().join("keys")).map_err(|error| error.to_string())?;
            keys.check(&self.0.path().join("my.plan"), digest()).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_signature_of_a_trusted_key_is_accepted() {
        let [private, public] = key_of(7);
        let files = Files::new(&format!("# mine\n\n{} other\n{public} me@here\n", key_of(8)[1]));
        files.write("my.plan.sig", BY_SSH_KEYGEN);
        files.check().unwrap();
        let key = SigningKey::read(&files.write("key", &private)).unwrap();
        let signature = key.sign(digest()).unwrap();
        // Ed25519 is deterministic.
        assert_eq!(signature.lines().collect::<String>(), BY_SSH_KEYGEN.lines().collect::<String>());
        files.write("my.plan.sig", &signature);
        files.check().unwrap();
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let ([private, public], [other, _]) = (key_of(7), key_of(8));
        let files = Files::new(&public);
        let refused = |says: &str| {
            let error = files.check().unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        refused("my.plan.sig: there is no such file: the plan is not signed");
        files.write("my.plan.sig", "hello");
        refused("expected a signature, as ssh-keygen -Y sign makes it");
        let key = |text: &str| SigningKey::read(&files.write("key", text));
        files.write("my.plan.sig", &key(&other).unwrap().sign(digest()).unwrap());
        refused("which is not in");
        files.write("my.plan.sig", &key(&private).unwrap().sign(blake3::hash(b"another plan")).unwrap());
        refused("is no signature of the plan with the digest");
        let SigningKey(signing) = key(&private).unwrap();
        let foreign = signing.sign("file", HashAlg::Sha512, digest().to_hex().as_bytes()).unwrap();
        files.write("my.plan.sig", &foreign.to_pem(LineEnding::LF).unwrap());
        refused("is of the namespace \"file\", expected \"jamba-plan\"");
        // Every byte of the signature counts.
        let whole = key(&private).unwrap().sign(digest()).unwrap();
        for at in (0..whole.len()).filter(|&at| whole.as_bytes()[at].is_ascii_alphanumeric()) {
            let changed = if whole.as_bytes()[at] == b'A' { "B" } else { "A" };
            files.write("my.plan.sig", &format!("{}{changed}{}", &whole[..at], &whole[at + 1..]));
            assert!(files.check().is_err(), "byte {at} of\n{whole}");
        }
        files.write("keys", "# nobody\n");
        refused("found no public key");
        files.write("keys", "no key\n");
        refused("expected a public key in each line");
        let error = key("no key").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("expected a private key of ssh-keygen -t ed25519"), "{error}");
    }
}
