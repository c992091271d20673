// What an operator can get wrong before anything serves: flags, settings, key files, an empty or
// damaged model volume. Every program and the image's entry point answer with one line and an exit
// code, and a member that cannot reach its mesh says so in its log and is not ready. And what
// clients get wrong while a mesh serves others, or a model without a tokenizer.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "cli/child.hpp"
#include "cli/http_client.hpp"
#include "cli/supervision.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"
#include "tests/unit/model/scratch.hpp"

namespace fulgur::integration {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Arguments = std::vector<std::string>;

Arguments joined(Arguments first, const Arguments& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

void expect_refused(const Finished& finished, int exit_code, const std::string& what) {
  EXPECT_EQ(finished.exit_code, exit_code) << finished.output;
  EXPECT_EQ(std::count(finished.output.begin(), finished.output.end(), '\n'), 1) << finished.output;
  EXPECT_NE(finished.output.find(what), std::string::npos) << what << ": " << finished.output;
}

std::string file_with(const std::string& text, mode_t mode) {
  const std::string path = scratch_path("file");
  std::ofstream(path) << text;
  chmod(path.c_str(), mode);
  return path;
}

/// Flags with which each program would serve.
Arguments good_flags(const std::string& service, const std::string& model) {
  const Arguments common = {"--model", model, "--admin", "127.0.0.1:0"};
  if (service == "orchestrator") return joined(common, {"--listen", "tcp://127.0.0.1:*"});
  const Arguments member = {"--name", "x", "--orchestrator", "tcp://127.0.0.1:9"};
  if (service == "router") return joined(joined(common, member), {"--port", "0"});
  return joined(joined(common, member), {"--listen", "tcp://127.0.0.1:*"});
}

const Arguments kServices = {"router", "attention", "expert", "orchestrator"};

Finished run_service(const std::string& service, const Arguments& more,
                     const std::string& model = tiny_model()) {
  return run_program(program("fulgur-" + service), joined(good_flags(service, model), more));
}

TEST(BadInput, AModelVolumeThatIsEmptyOrMissing) {
  const std::string empty = scratch_path("empty");
  fs::create_directory(empty);
  for (const std::string& service : kServices) {
    SCOPED_TRACE(service);
    expect_refused(run_service(service, {}, empty), 1, "config.json");
    expect_refused(run_service(service, {}, empty + "-missing"), 1, empty + "-missing");
  }
}

/// Damage to a copy of the bundled checkpoint, and what the one line about it names.
struct Damage {
  const char* name;
  std::function<void(const std::string& directory)> apply;
  const char* file;
  const char* what;
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

constexpr const char* kGate = "model.layers.3.block_sparse_moe.gate.weight";

void edit_weights(const std::string& directory,
                  const std::function<void(nlohmann::ordered_json&)>& edit) {
  model::edit_header(directory + "/model.safetensors", edit);
}

std::vector<Damage> damages() {
  return {{"UnknownModelType",
           [](const std::string& directory) {
             model::edit_json(directory + "/config.json",
                              [](auto& config) { config["model_type"] = "llama"; });
           },
           "/config.json: ", "model_type \"llama\""},
          {"MissingTensor",
           [](const std::string& directory) {
             edit_weights(directory, [](auto& header) { header.erase(kGate); });
           },
           "/model.safetensors: ", "tensor model.layers.3.block_sparse_moe.gate.weight is missing"},
          {"WrongShape",
           [](const std::string& directory) {
             edit_weights(directory, [](auto& header) { header[kGate]["shape"] = {256, 16}; });
           },
           "/model.safetensors: ",
           "tensor model.layers.3.block_sparse_moe.gate.weight has shape [256, 16]; "
           "config.json implies [16, 256]"},
          {"TruncatedFile",
           [](const std::string& directory) {
             const std::string file = directory + "/model.safetensors";
             fs::resize_file(file, fs::file_size(file) - 1);
           },
           "/model.safetensors: ", "truncated"}};
}

class DamagedCheckpoint : public testing::TestWithParam<Damage> {};

TEST_P(DamagedCheckpoint, IsOneLineOfEveryService) {
  const std::string directory = scratch_path("damaged");
  fs::copy(tiny_model(), directory);
  GetParam().apply(directory);
  for (const std::string& service : kServices) {
    SCOPED_TRACE(service);
    const Finished finished = run_service(service, {}, directory);
    expect_refused(finished, 1, "fulgur-" + service + ": " + directory + GetParam().file);
    expect_refused(finished, 1, GetParam().what);
  }
}

INSTANTIATE_TEST_SUITE_P(All, DamagedCheckpoint, testing::ValuesIn(damages()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(BadInput, KeyFilesThatCannotBeUsed) {
  const std::string none = scratch_path("none");
  const std::string open = file_with("x\n", 0644);
  const std::string rubbish = file_with("x\n", 0600);
  for (const std::string& service : kServices) {
    SCOPED_TRACE(service);
    expect_refused(run_service(service, {"--curve-key-file", none}), 2, "No such file");
    expect_refused(run_service(service, {"--curve-key-file", open}), 2, "0644");
    expect_refused(run_service(service, {"--curve-key-file", rubbish}), 2, "line 1");
  }
  expect_refused(run_service("router", {"--api-key-file", none}), 2, "No such file");
  expect_refused(run_service("router", {"--api-key-file", "/tmp"}), 2, "Is a directory");
  expect_refused(run_service("router", {"--api-key-file", file_with("", 0600)}), 2, "empty");
}

TEST(BadInput, FlagsOutOfRange) {
  expect_refused(run_service("orchestrator", {"--min-experts", "9", "--max-experts", "8"}), 2,
                 "--min-experts 9 is more than --max-experts 8");
  expect_refused(run_service("orchestrator", {"--busy-target", "70%"}), 2, "--busy-target");
  expect_refused(run_service("attention", {"--activations", "fp8"}), 2, "fp8");
  expect_refused(run_service("attention", {"--kv-tokens", "0"}), 2, "--kv-tokens");
  expect_refused(run_service("expert", {"--threads", "2500m"}), 2, "--threads");
  for (const std::string service : {"router", "attention", "expert"}) {
    SCOPED_TRACE(service);
    for (const std::string bad : {"nonsense", "tcp://host", "tcp://host:0", "ipc://"}) {
      Arguments flags = good_flags(service, tiny_model());
      *(std::find(flags.begin(), flags.end(), "--orchestrator") + 1) = bad;
      expect_refused(run_program(program("fulgur-" + service), flags), 2, "--orchestrator");
    }
  }
}

TEST(BadInput, MembersNeedToKnowTheirMesh) {
  for (const std::string service : {"attention", "expert"})
    for (const std::string missing : {"--listen", "--orchestrator"}) {
      SCOPED_TRACE(service + missing);
      Arguments flags = good_flags(service, tiny_model());
      const auto at = std::find(flags.begin(), flags.end(), missing);
      flags.erase(at, at + 2);
      expect_refused(run_program(program("fulgur-" + service), flags), 2, missing);
    }
}

/// The image's entry point beside the programs, as the image has it.
class EntryPoint : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = scratch_path("bin");
    fs::create_directory(folder_);
    fs::copy(tiny_model() + "/../../deploy/container/entrypoint.sh", folder_ + "/entrypoint");
    for (const std::string& service : kServices)
      fs::create_symlink(program("fulgur-" + service), folder_ + "/fulgur-" + service);
  }
  Finished run(const Arguments& variables, const Arguments& arguments) const {
    const Arguments clean = {"-i", "PATH=/usr/bin:/bin"};
    return run_program(
        "/usr/bin/env",
        joined(joined(joined(clean, variables), {folder_ + "/entrypoint"}), arguments));
  }

 private:
  std::string folder_;
};

TEST_F(EntryPoint, RefusesWhatIsNoServiceAndNoSetting) {
  expect_refused(run({}, {"experts"}), 2, "'experts' is no service");
  expect_refused(run({}, {}), 2, "'' is no service");
  expect_refused(run({"FULGUR_KV_TOKEN=1"}, {"expert", "--help"}), 2,
                 "FULGUR_KV_TOKEN is no setting");
  expect_refused(run({}, {"expert", "--model=$(FULGUR_MODEL)"}), 2,
                 "--model=$(FULGUR_MODEL): that variable is not set");
  expect_refused(run({"FULGUR_MODEL="}, {"expert", "--model="}), 2, "--model=: the value is empty");
  // What a program says comes through, and so does its exit code.
  expect_refused(run({"FULGUR_MODEL=/nowhere"},
                     {"orchestrator", "--model=/nowhere", "--listen=tcp://127.0.0.1:*"}),
                 1, "/nowhere");
}

TEST_F(EntryPoint, TakesKnownSettingsAndKubernetesOwnVariables) {
  const Finished help =
      run({"FULGUR_MODEL=/m", "FULGUR_SHRINK_SECONDS=9", "FULGUR_ROUTER_SERVICE_HOST=10.0.0.1",
           "FULGUR_ROUTER_PORT_80_TCP=tcp://10.0.0.1:80"},
          {"orchestrator", "--help"});
  EXPECT_EQ(help.exit_code, 0) << help.output;
  EXPECT_NE(help.output.find("--replicas"), std::string::npos);
}

/// A member whose orchestrator has no address waits: not ready, and its log says for what.
TEST(BadInput, AnUnreachableOrchestratorIsInTheLog) {
  const std::string log = scratch_path("log");
  const std::string admin = "127.0.0.1:" + std::to_string(cli::free_port());
  Arguments flags = good_flags("expert", tiny_model());
  *(std::find(flags.begin(), flags.end(), "--orchestrator") + 1) = "tcp://nowhere.invalid:7000";
  *(std::find(flags.begin(), flags.end(), "--admin") + 1) = admin;
  const auto pid = cli::spawn(program("fulgur-expert"), flags, log);
  ASSERT_TRUE(pid.is_ok()) << pid.status().message();
  EXPECT_TRUE(eventually([&] {
    std::ifstream file(log);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    return text.find("connecting to tcp://nowhere.invalid:7000: nobody answers") !=
           std::string::npos;
  }));
  cli::HttpClient client("http://" + admin);
  const auto ready = client.get("/readyz", 5 * kSecond);
  ASSERT_TRUE(ready.is_ok()) << ready.status().message();
  EXPECT_EQ(ready->status, 503);
  kill(*pid, SIGKILL);
  waitpid(*pid, nullptr, 0);
}

/// Status and, of an error, its code.
using Outcome = std::pair<int, std::string>;

Outcome post(const std::string& url, const std::string& path, const std::string& body) {
  cli::HttpClient client(url);
  const auto answer = client.post(path, body, 60 * kSecond);
  if (!answer.is_ok()) return {0, answer.status().message()};
  const json parsed = json::parse(answer->body, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("error")) return {answer->status, ""};
  const json& code = parsed["error"]["code"];
  return {answer->status, code.is_string() ? code.get<std::string>() : ""};
}

/// Prompts of ids, greedy and with a seed, with log-probabilities.
std::vector<json> id_requests() {
  std::vector<json> requests;
  for (const json& prompt : {json{17, 300, 4095}, json{5}, json{9, 8, 7, 6, 5, 4, 3, 2, 1}})
    for (const double temperature : {0.0, 0.9})
      requests.push_back({{"prompt", prompt}, {"max_tokens", 16}, {"temperature", temperature},
                          {"seed", 7}, {"logprobs", 2}, {"return_token_ids", true},
                          {"ignore_eos", true}});
  return requests;
}

TEST(NoTokenizer, TokenIdsAreServedAndTextIsRefused) {
  const std::string model = scratch_path("ids-only");
  fs::create_directory(model);
  for (const char* const file : {"config.json", "generation_config.json", "model.safetensors"})
    fs::copy(tiny_model() + "/" + file, model);
  Mesh mesh({.experts = 1, .model = model});
  const Status begun = mesh.start();
  ASSERT_TRUE(begun.is_ok()) << begun.message();
  const auto requests = id_requests();
  const auto answers = one_by_one(mesh.url(), requests);
  expect_equal(at_once(mesh.url(), requests, true), answers);
  // The weights are those of the bundled model, so the numbers are too; what is missing is text.
  Mesh bundled({.experts = 1});
  const Status started = bundled.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto expected = one_by_one(bundled.url(), requests);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(requests[i].dump());
    EXPECT_EQ(answers[i].error, "");
    EXPECT_EQ(answers[i].tokens.size(), 16U);
    EXPECT_EQ(answers[i].tokens, expected[i].tokens);
    EXPECT_EQ(answers[i].logprobs, expected[i].logprobs);
    EXPECT_EQ(answers[i].finish_reason, "length");
    EXPECT_EQ(answers[i].text, "");
    EXPECT_NE(expected[i].text, "");
    ASSERT_EQ(answers[i].top_logprobs.size(), 16U);
    for (const json& top : answers[i].top_logprobs)
      for (const auto& [token, logprob] : top.items())
        EXPECT_TRUE(token.starts_with("token_id:")) << token;
  }
  EXPECT_EQ(bundled.stop(), 0);
  const auto refused = [&](const char* path, const char* body) {
    return post(mesh.url(), path, body);
  };
  const char* const completions = "/v1/completions";
  EXPECT_EQ(refused(completions, R"({"prompt":"a fox"})"), Outcome(400, "no_tokenizer"));
  EXPECT_EQ(refused(completions, R"({"prompt":[[1],"a fox"]})"), Outcome(400, "no_tokenizer"));
  EXPECT_EQ(refused(completions, R"({"prompt":"a fox","stream":true})"),
            Outcome(400, "no_tokenizer"));
  EXPECT_EQ(refused(completions, R"({"prompt":[1],"stop":"x"})"), Outcome(400, "no_tokenizer"));
  EXPECT_EQ(refused("/tokenize", R"({"prompt":"a fox"})"), Outcome(400, "no_tokenizer"));
  EXPECT_EQ(refused("/detokenize", R"({"tokens":[1]})"), Outcome(400, "no_tokenizer"));
  EXPECT_EQ(refused("/v1/chat/completions", R"({"messages":[{"role":"user","content":"a"}]})"),
            Outcome(400, "no_chat_template"));
}

/// What a server answers to bytes that need not be HTTP, to the end of the connection.
std::string send_raw(std::uint16_t port, const std::string& bytes) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), ssize_t(bytes.size()));
  shutdown(fd, SHUT_WR);
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;)
    answer.append(buffer, static_cast<std::size_t>(n));
  close(fd);
  return answer;
}

/// Everything about a request that can be wrong by itself, one after the other.
void misbehave(const Mesh& mesh) {
  const std::string good =
      R"({"prompt":"a fox","max_tokens":4,"logit_bias":{"5":1},"stop":["x"],"seed":1})";
  const std::string message = R"({"messages":[{"role":"user","content":")";
  const std::string megabyte(1U << 20, 'x');
  std::vector<std::string> bodies = {
      "", "null", "[]", "{", good + "}", std::string(100'000, '['), std::string(1000, '\0'),
      "{\"prompt\":\"\xff\"}", "{\"prompt\":\"\xc3\x28\"}", "{\"prompt\":\"\xed\xa0\x80\"}",
      R"({"prompt":"\ud800"})", "{\"\xfe\":1,\"prompt\":\"x\"}", message + "\xf0\x9f\x92\"}]}",
      message + "x\"}],\"stop\":\"\x80\"}"};
  for (std::size_t size = 1; size < good.size(); size += 3) bodies.push_back(good.substr(0, size));
  for (const std::string& body : bodies)
    for (const char* const path : {"/v1/completions", "/v1/chat/completions"})
      EXPECT_EQ(post(mesh.url(), path, body).first, 400) << path << " " << body.substr(0, 100);
  EXPECT_EQ(post(mesh.url(), "/v1/completions", R"({"prompt":")" + megabyte + R"("})"),
            Outcome(400, "context_length_exceeded"));
  EXPECT_EQ(post(mesh.url(), "/v1/completions", R"({"prompt":[4096]})").first, 400);
  EXPECT_EQ(post(mesh.url(), "/v1/chat/completions", message + megabyte + R"("}]})"),
            Outcome(400, "context_length_exceeded"));

  const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n";
  const auto status = [&](const std::string& bytes) {
    const std::string answer = send_raw(mesh.port(), bytes);
    return answer.starts_with("HTTP/1.1 ") ? answer.substr(9, 3) : answer;
  };
  EXPECT_EQ(status(head + "Content-Length: 1000000000\r\n\r\n" + good), "413");
  EXPECT_EQ(status(head + "Content-Length: 100000\r\n\r\n" + good), "400");  // cut off
  EXPECT_EQ(status(head + "Content-Length: -1\r\n\r\n" + good), "400");
  EXPECT_EQ(status(head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + good), "400");
  EXPECT_EQ(status(head + "X: " + std::string(100'000, 'x') + "\r\n\r\n"), "431");
  EXPECT_EQ(status(std::string(3000, '\xff')), "400");
  EXPECT_EQ(status("\x16\x03\x01\x02\x01\r\n\r\n"), "400");  // how TLS begins
}

TEST(BadRequests, LeaveRunningStreamsUntouched) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = mixed_requests(4, 64);
  const auto undisturbed = at_once(mesh.url(), requests, true);
  const std::vector<pid_t> pids = mesh.pids();
  under_load(mesh.url(), requests, undisturbed, 8, [&] { misbehave(mesh); });
  const std::string router = mesh.admin_of("router-0");
  EXPECT_TRUE(eventually([&] { return metric(router, "fulgur_router_sequences_running") == 0; }));
  EXPECT_EQ(mesh.pids(), pids);
  EXPECT_EQ(mesh.stop(), 0);
}

}  // namespace
}  // namespace fulgur::integration
