// The operations page over HTTP: its files, the stream, the list of events; and its topics as JSON.
#include "services/orchestrator/ops_page.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "common/transport/inproc.hpp"
#include "http/raw_client.hpp"
#include "orchestrator/healthy_mesh.hpp"
#include "services/orchestrator/ops_files.hpp"
#include "services/orchestrator/ops_topics.hpp"

namespace fulgur::orchestrator {
namespace {

using http::testing::RawClient;
using nlohmann::json;

TEST(OpsPage, FindsQueryValues) {
  EXPECT_EQ(query_value("since=1.2", "since"), "1.2");
  EXPECT_EQ(query_value("a=1&since=&b", "since"), "");
  EXPECT_EQ(query_value("since", "since"), "");
  EXPECT_EQ(query_value("sinc=1&xsince=2", "since"), std::nullopt);
  EXPECT_EQ(query_value("", "since"), std::nullopt);
}

/// An orchestrator without members behind a server, its reactor on a thread as in the process.
class OpsServerTest : public testing::Test {
 protected:
  OpsServerTest() {
    OrchestratorDeps deps;
    deps.options = ScriptedMesh::default_options();
    deps.self = {"orchestrator", 1, "inproc://orchestrator", "127.0.0.1:1"};
    deps.feed = &feed_;
    const auto actor = start_orchestrator(reactor_, std::move(deps));
    add_ops_page(*server_, actor);
    server_->start();
    thread_ = std::thread([this] { reactor_.run(); });
  }
  ~OpsServerTest() override {
    reactor_.stop();
    thread_.join();
    feed_.close();
    EXPECT_TRUE(server_->shutdown(10 * kSecond));
  }
  std::string get(const std::string& target, const std::string& headers = "") {
    RawClient client(server_->port());
    client.send("GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers +
                "\r\n");
    return client.read_to_end();
  }

  const RealClock clock_;
  transport::Hub hub_;
  std::unique_ptr<transport::Transport> transport_ = std::move(
      *hub_.make({wire::ServiceKind::orchestrator, "orchestrator", 1}, "inproc://orchestrator"));
  EventFeed feed_{clock_, 1, {.watchers = 1}};
  actor::Reactor reactor_{*transport_, clock_};
  std::unique_ptr<http::Server> server_ = std::move(*http::Server::listen("127.0.0.1", 0));
  std::thread thread_;
};

TEST_F(OpsServerTest, ServesThePageAndItsFiles) {
  const std::string page = get("/");
  EXPECT_NE(page.find("HTTP/1.1 200 OK"), std::string::npos);
  EXPECT_NE(page.find("Content-Type: text/html; charset=utf-8\r\n"), std::string::npos);
  EXPECT_NE(page.find("Content-Security-Policy: default-src 'none'; script-src 'self'"),
            std::string::npos);
  EXPECT_EQ(page.find("unsafe-inline"), std::string::npos);
  for (const http::EmbeddedFile& file : kOpsFiles) {
    if (file.name == "index.html") continue;
    const std::string answer = get("/ops/" + std::string(file.name));
    EXPECT_NE(answer.find("200 OK"), std::string::npos) << file.name;
    EXPECT_TRUE(answer.ends_with(file.bytes)) << file.name;
    EXPECT_EQ(answer.find("Content-Type: text/plain"), std::string::npos) << file.name;
    EXPECT_NE(answer.find("X-Content-Type-Options: nosniff"), std::string::npos) << file.name;
  }
  EXPECT_NE(get("/ops").find("Location: /\r\n"), std::string::npos);
  EXPECT_NE(get("/ops/none.js").find("404"), std::string::npos);
}

TEST_F(OpsServerTest, AnUnchangedFileIsNotSentAgain) {
  const std::string page = get("/ops/main.js");
  const std::size_t begin = page.find("ETag: ") + 6;
  const std::string tag = page.substr(begin, page.find("\r\n", begin) - begin);
  const std::string again = get("/ops/main.js", "If-None-Match: " + tag + "\r\n");
  EXPECT_NE(again.find("304 Not Modified"), std::string::npos);
  EXPECT_EQ(again.find("Content-Length"), std::string::npos);
  EXPECT_TRUE(again.ends_with("\r\n\r\n"));
}

TEST_F(OpsServerTest, EverythingThePageAsksForIsThere) {
  for (const http::EmbeddedFile& file : kOpsFiles) {
    const std::string text(file.bytes);
    EXPECT_EQ(text.find("style=\""), std::string::npos) << file.name << ": the policy forbids it";
    for (const std::string mark : {"/ops/", "from './"}) {
      for (std::size_t at = text.find(mark); at != std::string::npos;
           at = text.find(mark, at + 1)) {
        const std::size_t begin = at + mark.size();
        const std::string name = text.substr(begin, text.find_first_of("'\"", begin) - begin);
        EXPECT_TRUE(std::any_of(kOpsFiles.begin(), kOpsFiles.end(),
                                [&](const auto& other) { return other.name == name; }))
            << file.name << " names " << name;
      }
    }
  }
}

TEST_F(OpsServerTest, StreamsAndRefusesTheNext) {
  RawClient watcher(server_->port());
  watcher.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string head = watcher.read_until("event: placement");
  EXPECT_NE(head.find("Content-Type: text/event-stream\r\n"), std::string::npos);
  EXPECT_NE(head.find("Cache-Control: no-store\r\n"), std::string::npos);
  EXPECT_NE(head.find("event: mesh\ndata: {"), std::string::npos);
  const std::string refused = get("/v1/events");
  EXPECT_NE(refused.find("503 Service Unavailable"), std::string::npos);
  EXPECT_NE(refused.find("Retry-After: 5\r\n"), std::string::npos);
  watcher.close();
  // The seat is free as soon as the server has seen the client leave.
  for (bool free = false; !free;) {
    RawClient next(server_->port());
    next.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
    free = next.read_until("\r\n").find("200 OK") != std::string::npos;
  }
}

TEST_F(OpsServerTest, AHeadRequestTakesNoSeat) {
  RawClient client(server_->port());
  client.send("HEAD /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_NE(client.read_to_end().find("200 OK"), std::string::npos);
  RawClient watcher(server_->port());
  watcher.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_NE(watcher.read_until("event: mesh").find("200 OK"), std::string::npos);
}

TEST_F(OpsServerTest, ListsEventsOrSaysWhatIsWrong) {
  const std::string list = get("/v1/events?since=0");
  EXPECT_NE(list.find("Content-Type: application/json"), std::string::npos);
  EXPECT_NE(list.find(R"({"events":[],"last":"1.0"})"), std::string::npos) << list;
  EXPECT_NE(get("/v1/events?since=now").find("400 Bad Request"), std::string::npos);
  EXPECT_NE(get("/v1/events", "Last-Event-ID: x\r\n").find("400 Bad Request"), std::string::npos);
}

TEST(OpsTopics, ShowLoadAndHolders) {
  ScriptedMesh mesh(expecting(3, 1));
  EXPECT_EQ(placement_json(mesh.coordinator()),
            R"({"epoch":0,"layers":3,"experts":8,"workers":[],"holders":[]})");
  start_members(mesh, 3);
  mesh.run();
  wire::Heartbeat beat;
  beat.name = "expert-0";
  beat.incarnation = 1;
  beat.expert_tokens = {{2, 7, 41}};
  mesh.coordinator().on_heartbeat(mesh.link("expert-0"), beat);
  const json load = json::parse(load_json(mesh.coordinator()));
  ASSERT_EQ(load["tokens"].size(), 24U);
  EXPECT_EQ(load["tokens"][23], 41);
  EXPECT_EQ(load["tokens"][0], 0);

  const json placement = json::parse(placement_json(mesh.coordinator()));
  EXPECT_EQ(placement["workers"], json({"expert-0", "expert-1", "expert-2"}));
  ASSERT_EQ(placement["holders"].size(), 24U);
  for (std::uint32_t cell = 0; cell < 24; ++cell) {
    ASSERT_EQ(placement["holders"][cell].size(), 2U);
    for (const auto& holder : placement["holders"][cell])
      EXPECT_TRUE(mesh.peer("expert-" + holder.dump()).held.contains(cell / 8, cell % 8)) << cell;
  }
}

TEST(OpsTopics, TheMeshSaysWhatChangesAndWhoIsLost) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  const json changing = json::parse(mesh_json(mesh.coordinator(), {}));
  EXPECT_EQ(changing["phase"], "preparing");
  EXPECT_EQ(changing["change"]["epoch"], 1);
  EXPECT_EQ(changing["change"]["asked"], 3);
  EXPECT_EQ(changing["change"]["waits_for"], json({"expert-0", "expert-1", "expert-2"}));
  mesh.run();
  mesh.pass(kSecond);
  mesh.kill("expert-2");
  mesh.pass(3 * kSecond);
  const json whole = json::parse(mesh_json(mesh.coordinator(), {}));
  EXPECT_EQ(whole["change"], nullptr);
  ASSERT_EQ(whole["lost"].size(), 1U);
  EXPECT_EQ(whole["lost"][0]["name"], "expert-2");
  EXPECT_EQ(whole["lost"][0]["heard_ms_ago"], 3000);
  EXPECT_EQ(whole["superseded"], false);
  EXPECT_EQ(whole["layers"], 3);
  for (const json& service : whole["services"])
    if (service["kind"] != "orchestrator") {
      EXPECT_EQ(service["heard_ms_ago"], 0) << service;
    }
  for (const json& pool : whole["pools"]) EXPECT_LE(pool["floor"], pool["ceiling"]);
}

}  // namespace
}  // namespace fulgur::orchestrator
