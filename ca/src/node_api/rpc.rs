//! The methods of the node API and the one kind of peer that may call each (T-13, T-14).
//!
//! A method that has no row here is not served: the [gate](super::gate) answers `UNIMPLEMENTED` before anything else sees
//! the request. A test compares the rows with the descriptors of the contract.

/// A method of the node API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rpc {
    Join,
    Recover,
    Renew,
    Sync,
    IssueX509,
    IssueJwt,
    Delegate,
    CollectMints,
    LookAtIssuer,
}

/// What a peer has proved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PeerKind {
    /// The possession of a key, and nothing else.
    Key,
    /// That it is a live node.
    Node,
}

impl Rpc {
    /// Every method.
    pub(super) const ALL: [Self; 9] = [
        Self::Join,
        Self::Recover,
        Self::Renew,
        Self::Sync,
        Self::IssueX509,
        Self::IssueJwt,
        Self::Delegate,
        Self::CollectMints,
        Self::LookAtIssuer,
    ];

    /// The method that a request is for, by its HTTP/2 `:path`.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rpc| rpc.path() == path)
    }

    /// The `:path` of a request for it.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Join => "/bonafide.node.v1.NodeApi/Join",
            Self::Recover => "/bonafide.node.v1.NodeApi/Recover",
            Self::Renew => "/bonafide.node.v1.NodeApi/Renew",
            Self::Sync => "/bonafide.node.v1.NodeApi/Sync",
            Self::IssueX509 => "/bonafide.node.v1.NodeApi/IssueX509",
            Self::IssueJwt => "/bonafide.node.v1.NodeApi/IssueJwt",
            Self::Delegate => "/bonafide.node.v1.NodeApi/Delegate",
            Self::CollectMints => "/bonafide.node.v1.NodeApi/CollectMints",
            Self::LookAtIssuer => "/bonafide.node.v1.NodeApi/LookAtIssuer",
        }
    }

    /// The one kind of peer that may call it.
    pub(super) fn takes(self) -> PeerKind {
        match self {
            Self::Join | Self::Recover => PeerKind::Key,
            Self::Renew
            | Self::Sync
            | Self::IssueX509
            | Self::IssueJwt
            | Self::Delegate
            | Self::CollectMints
            | Self::LookAtIssuer => PeerKind::Node,
        }
    }

    /// Its name in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Join => "Join",
            Self::Recover => "Recover",
            Self::Renew => "Renew",
            Self::Sync => "Sync",
            Self::IssueX509 => "IssueX509",
            Self::IssueJwt => "IssueJwt",
            Self::Delegate => "Delegate",
            Self::CollectMints => "CollectMints",
            Self::LookAtIssuer => "LookAtIssuer",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bonafide_ca_api::generated::node::DESCRIPTORS;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn t_13_every_method_of_the_contract_has_its_row() {
        let contract = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let in_contract: BTreeSet<String> = contract
            .file
            .iter()
            .filter(|file| file.package() == "bonafide.node.v1")
            .flat_map(|file| {
                file.service.iter().flat_map(|service| {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    service.method.iter().map(move |method| format!("/{service_name}/{}", method.name()))
                })
            })
            .collect();
        let rows: BTreeSet<String> = Rpc::ALL.into_iter().map(|rpc| rpc.path().to_owned()).collect();
        assert_eq!(rows, in_contract, "a new method needs a row that says who may call it");
        for rpc in Rpc::ALL {
            assert_eq!(Rpc::of_path(rpc.path()), Some(rpc));
            assert!(rpc.path().ends_with(rpc.name()));
        }
    }

    #[test]
    fn t_14_what_has_no_row_is_no_method() {
        for path in [
            "",
            "/",
            "/bonafide.node.v1.NodeApi/",
            "/bonafide.node.v1.NodeApi/join",
            "/bonafide.node.v1.NodeApi/Join/",
            "/bonafide.node.v1.NodeApi/Joi",
            "//bonafide.node.v1.NodeApi/Join",
            "/bonafide.admin.v1.AdminApi/AddService",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(Rpc::of_path(path), None, "{path}");
        }
    }
}
