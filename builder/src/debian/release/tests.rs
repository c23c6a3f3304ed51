use super::*;
use pgp::composed::{KeyType, SecretKeyParamsBuilder, SignedSecretKey};
use pgp::types::Password;

const NOW: i64 = 1_790_000_000;

fn key() -> SignedSecretKey {
    SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .primary_user_id("test".into())
        .build()
        .expect("parameters")
        .generate(rand_core())
        .expect("a key")
}

fn rand_core() -> impl rand::Rng + rand::CryptoRng {
    rand::thread_rng()
}

fn ring(key: &SignedSecretKey) -> Keyring {
    use pgp::ser::Serialize;
    let public = SignedPublicKey::from(key.clone());
    let fingerprint = public.fingerprint().to_string();
    Keyring::from_bytes(&public.to_bytes().expect("bytes"), &[fingerprint]).expect("a ring")
}

fn text(extra: &str) -> String {
    format!(
        "Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 09:00:00 UTC\n{extra}SHA256:\n {} 12 main/binary-amd64/Packages.xz\n",
        "ab".repeat(32)
    )
}

fn sign(key: &SignedSecretKey, text: &str) -> String {
    CleartextSignedMessage::sign(rand_core(), text, &key.primary_key, &Password::empty())
        .expect("signed")
        .to_armored_string(pgp::composed::ArmorOptions::default())
        .expect("armored")
}

fn expect() -> Expect<'static> {
    Expect { suite: "trixie", now: NOW, not_before: None }
}

#[test]
fn a_good_one_is_read() {
    let k = key();
    let r = verify(sign(&k, &text("Acquire-By-Hash: yes\n")).as_bytes(), &ring(&k), expect()).expect("good");
    assert_eq!(r.file("main/binary-amd64/Packages.xz").expect("listed"), ("ab".repeat(32).as_str(), 12));
    assert!(r.by_hash && r.signers.len() == 1);
    assert!(r.file("contrib/x").is_err());
}

#[test]
fn what_is_refused() {
    let k = key();
    let good = sign(&k, &text(""));
    let stranger = key();
    let expired = "Valid-Until: Sat, 19 Sep 2020 09:00:00 UTC\n";
    let cases: Vec<(String, Expect<'_>, &str)> = vec![
        (sign(&stranger, &text("")), expect(), "no good signature"),
        (good.replace("Packages.xz", "Packages.gz"), expect(), "no good signature"),
        (format!("Suite: evil\n{good}"), expect(), "before the signed span"),
        (format!("{good}\nSHA256:\n"), expect(), "after the signed span"),
        (good.clone(), Expect { suite: "bookworm", ..expect() }, "expected bookworm"),
        (sign(&k, &text(expired)), expect(), "expired"),
        (good.clone(), Expect { not_before: Some(NOW + 1), ..expect() }, "back in time"),
        (text(""), expect(), "before the signed span"),
        (sign(&k, "Suite: trixie\nDate: yesterday\nSHA256:\n"), expect(), "no date"),
    ];
    for (bytes, expect, why) in cases {
        let e = format!("{:#}", verify(bytes.as_bytes(), &ring(&k), expect).expect_err(why));
        assert!(e.contains(why), "{e}\n-- expected: {why}");
    }
}

#[test]
fn one_good_signature_of_several_is_enough() {
    let (k, stranger) = (key(), key());
    let both = CleartextSignedMessage::new_many(&text(""), |t| {
        let sign = |k: &SignedSecretKey| -> pgp::errors::Result<pgp::packet::Signature> {
            Ok(CleartextSignedMessage::sign(rand_core(), t, &k.primary_key, &Password::empty())?.signatures()[0]
                .clone())
        };
        Ok(vec![sign(&stranger)?, sign(&k)?])
    })
    .expect("signed twice")
    .to_armored_string(pgp::composed::ArmorOptions::default())
    .expect("armored");
    verify(both.as_bytes(), &ring(&k), expect()).expect("one is good");
}

#[test]
fn a_ring_without_pinned_keys_is_refused() {
    use pgp::ser::Serialize;
    let bytes = SignedPublicKey::from(key()).to_bytes().expect("bytes");
    let e = Keyring::from_bytes(&bytes, &["00".into()]).expect_err("none").to_string();
    assert!(e.contains("none of the pinned keys"), "{e}");
}
