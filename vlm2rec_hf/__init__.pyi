"""The public names, each written once: what `vlm2rec_hf` exports, `__all__`, and what type checkers see."""

# What every method has.
from .catalogues.item_vectors import ItemVectors as ItemVectors

# Items and histories made ready.
from .catalogues.prepared_catalogue import PreparedCatalogue as PreparedCatalogue
from .catalogues.vision_cache import VisionCache as VisionCache

# Data.
from .data.dataset import RecDataset as RecDataset
from .data.demo_shop import make_demo_shop as make_demo_shop
from .data.images import ImagePath as ImagePath
from .data.readers import load_recsys as load_recsys
from .evaluation.choosing_scores import choose_score_options as choose_score_options
from .evaluation.embedding import embed as embed
from .evaluation.evaluating import evaluate as evaluate
from .evaluation.report import Report as Report
from .evaluation.score_options import ScoreOptions as ScoreOptions
from .histories.history_state import HistoryState as HistoryState
from .hub_cards.publish import push as push
from .indexing.item_index import ItemIndex as ItemIndex
from .loading import load_model as load_model
from .loading import load_processor as load_processor
from .losses.next_item import NextItemLoss as NextItemLoss
from .losses.pixrec import PixRecLoss as PixRecLoss
from .losses.vlm2rec import VLM2RecLoss as VLM2RecLoss
from .merging import merge_adapters as merge_adapters
from .modeling.catalogue_seqrec import Recommendation as Recommendation
from .modeling.configuration_dmesr import DMESRConfig as DMESRConfig
from .modeling.configuration_pixrec import PixRecConfig as PixRecConfig
from .modeling.configuration_seqrec import SeqRecConfig as SeqRecConfig

# Models.
from .modeling.configuration_vlm2rec import VLM2RecConfig as VLM2RecConfig
from .modeling.encoding_vlm2rec import Encoding as Encoding
from .modeling.modeling_dmesr import DMESRModel as DMESRModel
from .modeling.modeling_pixrec import PixRecModel as PixRecModel
from .modeling.modeling_seqrec import SequentialRecommender as SequentialRecommender
from .modeling.modeling_vlm2rec import VLM2RecEmbedder as VLM2RecEmbedder
from .modeling.processing_pixrec import PixRecProcessor as PixRecProcessor
from .modeling.processing_vlm2rec import VLM2RecProcessor as VLM2RecProcessor
from .page.showing import show_page as show_page
from .recommending.explaining import Explanation as Explanation
from .recommending.index_building import build_index as build_index
from .recommending.opening import open_recommender as open_recommender
from .recommending.recommender import Recommender as Recommender
from .recommending.recommender import recommender as recommender
from .recommending.shop_lists import ShopRecommendation as ShopRecommendation
from .sentence_transformers.model_files import as_documents as as_documents
from .sentence_transformers.model_files import as_queries as as_queries
from .tiny.backbones import tiny_vlm as tiny_vlm
from .tiny.pixrec import tiny_pixrec as tiny_pixrec
from .trainers.adapters import default_lora_config as default_lora_config
from .trainers.adapters import pixrec_lora_config as pixrec_lora_config
from .trainers.dmesr_args import DMESRTrainingArguments as DMESRTrainingArguments
from .trainers.dmesr_trainer import DMESRTrainer as DMESRTrainer
from .trainers.head_models import build_dmesr as build_dmesr
from .trainers.head_models import build_head as build_head
from .trainers.pixrec_args import PixRecTrainingArguments as PixRecTrainingArguments
from .trainers.pixrec_trainer import PixRecTrainer as PixRecTrainer
from .trainers.seqrec_args import SeqRecTrainingArguments as SeqRecTrainingArguments
from .trainers.seqrec_trainer import SeqRecTrainer as SeqRecTrainer

# Training.
from .trainers.vlm2rec_args import VLM2RecTrainingArguments as VLM2RecTrainingArguments
from .trainers.vlm2rec_trainer import VLM2RecTrainer as VLM2RecTrainer
from .trainers.warm_up import warm_up_backbone as warm_up_backbone
from .version import __version__ as __version__
