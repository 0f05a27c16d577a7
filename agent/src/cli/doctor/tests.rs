use bonafide_ca_api::{CaAddress, Invitation, InvitationSecret};
use bonafide_verifier::spiffe::TrustDomain;
use rcgen::KeyPair;

use super::*;
use crate::{
    cli::inspect::live::tests::{Pki, now},
    join::plan::begin,
};

fn member_of(pki: &Pki) -> NodeState {
    let invitation = Invitation::new(
        vec![CaAddress::parse("127.0.0.1:1").unwrap()],
        TrustDomain::parse("example.org").unwrap(),
        sha256(pki.root()),
        InvitationSecret::generate().unwrap(),
        now().saturating_add(std::time::Duration::from_secs(60)),
    );
    begin(invitation.unwrap()).unwrap().state
}

/// Whoever has an ordinary SVID can show the root, too; whoever has seen the CA can show its certificate.
#[test]
fn only_the_ca_is_taken_for_the_ca() {
    let (pki, other, key) = (Pki::new(), Pki::new(), KeyPair::generate().unwrap());
    let node = member_of(&pki);
    let ca = "spiffe://example.org/bonafide/ca";
    let mut grafted = other.chain(ca, &key);
    grafted.pop();
    grafted.extend(pki.chain(ca, &key).pop());
    let cases = [
        ("the CA", pki.chain(ca, &key), None, None),
        ("another root", other.chain(ca, &key), None, Some("another root")),
        ("another root's certificate above our root's", grafted, None, Some("")),
        ("a service", pki.chain("spiffe://example.org/web", &key), None, Some("it is `spiffe://example.org/web`")),
        ("a node", pki.chain("spiffe://example.org/bonafide/node/n1", &key), None, Some("bonafide/node/n1`, not")),
        ("a copied certificate", pki.chain(ca, &key), Some("bad signature"), Some("did not prove")),
        ("nothing", vec![], None, Some("another root")),
    ];
    for (name, chain, unproved, refused) in cases {
        let unproved = unproved.map(str::to_owned);
        let presented = inspect::Presented { chain, unproved, protocol: "TLSv1_3".into() };
        let said = is_our_ca(&node, &presented, now());
        match refused {
            None => assert_eq!(said, Ok(()), "{name}"),
            Some(why) => assert!(said.as_ref().is_err_and(|said| said.contains(why)), "{name}: {said:?}"),
        }
    }
}
