// Status as JSON and as a table, and the reader of server-sent events.
#include "cli/status_view.hpp"

#include <gtest/gtest.h>

#include "cli/http_client.hpp"

namespace fulgur::cli {
namespace {

constexpr const char* kMesh = R"({"services":[
 {"kind":"orchestrator","name":"orchestrator","pid":1,"endpoint":"ipc://o","admin":"127.0.0.1:1",
  "epoch":3,"replicas":0,"load":{},"state":"alive","incarnation":5},
 {"kind":"expert","name":"expert-0","pid":20,"endpoint":"ipc://e","admin":"127.0.0.1:2","epoch":3,
  "replicas":128,"load":{"queue_depth":1,"tokens_total":77,"held_bytes":1048576},"state":"alive","slow":true}],
 "pools":[{"pool":"experts","replicas":1,"wanted":2,"busy":0.9,"wait_ms":3.0,"reason":"busy"}],
 "epoch":3,"replicas":2,"ready":true,"problem":""})";

TEST(StatusView, JsonHasExactlyThePublishedFields) {
  EXPECT_EQ(*status_json(kMesh),
            R"({"pools":[{"busy":0.9,"pool":"experts","reason":"busy","replicas":1,"wait_ms":3.0,)"
            R"("wanted":2}],)"
            R"("services":[{"endpoint":"ipc://o","epoch":3,"kind":"orchestrator","load":{},)"
            R"("name":"orchestrator","pid":1,"replicas":0,"state":"alive"},)"
            R"({"endpoint":"ipc://e","epoch":3,)"
            R"("kind":"expert","load":{"held_bytes":1048576,"queue_depth":1,"tokens_total":77},)"
            R"("name":"expert-0","pid":20,"replicas":128,"slow":true,"state":"alive"}]})");
}

TEST(StatusView, TableIsAligned) {
  MeshRecord record;
  record.model = "/m";
  record.host = "127.0.0.1";
  record.port = 8000;
  EXPECT_EQ(
      *status_table(kMesh, record),
      "KIND          NAME          PID  STATE        EPOCH  REPLICAS  LOAD                        "
      "ADMIN\n"
      "orchestrator  orchestrator  1    alive        3      -                                     "
      "127.0.0.1:1\n"
      "expert        expert-0      20   alive, slow  3      128       1 queued, 77 rows, 1.0 MiB  "
      "127.0.0.1:2\n"
      "experts: 1 serve, 2 wanted (busy; busy 0.90, wait 3.0 ms)\n"
      "serving /m on http://127.0.0.1:8000, epoch 3, 2 replicas of every expert\n");
}

TEST(StatusView, SaysWhatIsWrong) {
  EXPECT_EQ(
      *status_table(R"({"services":[],"ready":false,"problem":"no shard"})", {}).value().rbegin(),
      '\n');
  EXPECT_NE(status_table(R"({"services":[],"ready":false,"problem":"no shard"})", {})
                ->find("not ready: no shard"),
            std::string::npos);
  EXPECT_FALSE(status_json("not json").is_ok());
  EXPECT_FALSE(status_json("[]").is_ok());
  MeshRecord record;
  record.services.push_back({"router", "router-0", 9, "", ""});
  EXPECT_NE(status_json(mesh_json_from_record(record))->find(R"("name":"router-0")"),
            std::string::npos);
}

TEST(SseReader, FindsEventsHoweverTheBytesAreCut) {
  const std::string stream =
      ": comment\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\n\n\ndata: [DONE]\n\n";
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    std::vector<std::string> events;
    SseReader reader([&](std::string_view data) { events.emplace_back(data); });
    for (std::size_t at = 0; at < stream.size(); at += piece) reader.feed(stream.substr(at, piece));
    EXPECT_EQ(events, (std::vector<std::string>{"{\"a\":1}", "two\nlines", "[DONE]"}));
  }
}

}  // namespace
}  // namespace fulgur::cli
