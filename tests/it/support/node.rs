//! A node of a test's own: real parts in this process, its folder and ports taken for it.

use std::net::SocketAddr;

use poem::Endpoint;
use poem::http::Method;
use relaypacs::admin::Admin;
use relaypacs::auth::Scope;
use relaypacs::config::Config;
use relaypacs::dicom::{AeTitle, Uid};
use relaypacs::dimse::scu::{Association, Peer, Proposal};
use relaypacs::node::{Foundation, Node};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::{DEADLINE, Instance};

pub struct TestNode {
    node: Option<Node>,
    dir: tempfile::TempDir,
    change: fn(&mut Config),
    client: reqwest::Client,
    pub dicom: SocketAddr,
    pub http: String,
    key: String,
}

impl TestNode {
    /// On the embedded default but for its folder and ports.
    pub async fn start() -> TestNode {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: fn(&mut Config)) -> TestNode {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    async fn start_in(dir: tempfile::TempDir, change: fn(&mut Config)) -> TestNode {
        let mut config = of_a_test(&dir);
        change(&mut config);
        let node = Node::start(config).await.unwrap();
        let scopes = [Scope::DicomwebRead, Scope::DicomwebWrite];
        let key = node.foundation.keys.add("test", &scopes, None).await.unwrap();
        TestNode {
            dicom: node.addresses.dicom[0],
            http: format!("http://{}", node.addresses.http[0]),
            client: reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap(),
            node: Some(node),
            dir,
            change,
            key,
        }
    }

    /// Does something to what it keeps, as a command does when no node runs.
    pub async fn stopped(mut self, work: impl AsyncFnOnce(&Foundation)) -> TestNode {
        self.node.take().unwrap().shutdown().await;
        let mut config = of_a_test(&self.dir);
        (self.change)(&mut config);
        let foundation = Foundation::open(config).await.unwrap();
        work(&foundation).await;
        foundation.close().await;
        // With it goes the spool's lock.
        drop(foundation);
        Self::start_in(self.dir, self.change).await
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Drains; true when nothing had to be cut off.
    pub async fn stop(mut self) -> bool {
        self.node.take().unwrap().shutdown().await
    }

    /// Stops and starts on the same folder.
    pub async fn restart(mut self) -> TestNode {
        self.node.take().unwrap().shutdown().await;
        Self::start_in(self.dir, self.change).await
    }

    /// A C-STORE of each object on one association; the statuses.
    pub async fn c_store(&self, objects: &[Instance]) -> Vec<u16> {
        let peer = Peer {
            host: self.dicom.ip().to_string(),
            port: self.dicom.port(),
            called_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
            calling_ae_title: AeTitle::parse("MODALITY").unwrap(),
            timeout: DEADLINE,
            never: [].into(),
        };
        let explicit = "1.2.840.10008.1.2.1".to_owned();
        let proposal = Proposal {
            abstract_syntax: objects[0].sop_class.clone(),
            transfer_syntaxes: vec![explicit.clone()],
            scp_role: false,
        };
        let mut association = Association::connect(&peer, &[proposal]).await.unwrap();
        let mut statuses = Vec::new();
        for object in objects {
            let (class, uid) =
                (Uid::parse(&object.sop_class).unwrap(), Uid::parse(&object.sop_instance).unwrap());
            let chunk = Ok::<_, std::io::Error>(bytes::Bytes::from(object.data_set()));
            let chunks = std::pin::pin!(futures_util::stream::iter([chunk]));
            let status = association.store(&class, &uid, &explicit, chunks).await;
            statuses.push(status.unwrap().0);
        }
        association.release().await;
        statuses
    }

    /// A STOW-RS request with these objects.
    pub async fn stow(&self, objects: &[Instance]) -> Response {
        let mut body = Vec::new();
        for object in objects {
            body.extend(b"--part\r\nContent-Type: application/dicom\r\n\r\n");
            body.extend(object.part10());
            body.extend(b"\r\n");
        }
        body.extend(b"--part--\r\n");
        self.client
            .post(format!("{}/dicom-web/studies", self.http))
            .bearer_auth(&self.key)
            .header("content-type", "multipart/related; type=\"application/dicom\"; boundary=part")
            .header("accept", "application/dicom+json")
            .body(body)
            .send()
            .await
            .unwrap()
    }

    /// As a command asks it.
    pub async fn command(admin: Admin, method: Method, path: &str, body: &Value) -> poem::Response {
        let request = poem::Request::builder().method(method).uri_str(path).content_type("application/json");
        let request = request.body(serde_json::to_vec(body).unwrap());
        relaypacs::control::routes(admin).get_response(request).await
    }

    pub fn admin(&self) -> Admin {
        self.node().foundation.admin(Some(self.node().running.clone()))
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.http)).bearer_auth(&self.key).send().await.unwrap()
    }

    pub async fn metrics(&self) -> String {
        let address = self.node().addresses.telemetry.unwrap();
        self.client.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap()
    }

    /// SOP Instance UIDs of a study, as QIDO-RS lists them.
    pub async fn instances_of(&self, study: &str) -> Vec<String> {
        let response = self.get(&format!("/dicom-web/studies/{study}/instances")).await;
        if response.status() == StatusCode::NO_CONTENT {
            return vec![];
        }
        assert_eq!(response.status(), StatusCode::OK);
        let found: serde_json::Value = response.json().await.unwrap();
        let mut uids: Vec<String> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|instance| instance["00080018"]["Value"][0].as_str().unwrap().to_owned())
            .collect();
        uids.sort();
        uids
    }
}

fn of_a_test(dir: &tempfile::TempDir) -> Config {
    let base = "[dicom]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
                [telemetry]\nlisten = \"127.0.0.1:0\"\n\
                [spool]\nsegment_size = \"4 MiB\"\nany_file_system = true\n[limits]\ndrain = \"5s\"\n";
    let mut config = Config::from_toml(base).unwrap();
    config.node.data_dir = dir.path().to_owned();
    config.spool.dir = dir.path().join("spool");
    config.database.url = format!("sqlite://{}", dir.path().join("relaypacs.db").display());
    config
}
