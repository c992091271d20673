fulgur_test(model_checkpoint_test SOURCES model/checkpoint_test.cpp
            DEPENDS fulgur::model fulgur::test_support nlohmann_json::nlohmann_json)
fulgur_test(model_config_test SOURCES model/model_config_test.cpp
            DEPENDS fulgur::model nlohmann_json::nlohmann_json)
fulgur_test(model_hostile_test SOURCES model/hostile_test.cpp
            DEPENDS fulgur::model nlohmann_json::nlohmann_json)
fulgur_test(model_inspect_test SOURCES model/inspect_test.cpp
            DEPENDS fulgur::model nlohmann_json::nlohmann_json)
fulgur_test(model_synth_test SOURCES model/synth_test.cpp
            DEPENDS fulgur::model nlohmann_json::nlohmann_json)
